"""What whole data sets take: pictures a second of one and two processes, bytes a picture, and what follows.

Run by `make scale` where DETCAM_ASSETS has the photographs; prints the tables of docs/scale.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ASSETS = Path(os.environ.get("DETCAM_ASSETS", "../shared/assets"))
MODEL, PICTURES = ASSETS / "weights" / "yolov8n.pt", ASSETS / "coco64" / "images"
SETTINGS = {
    "as it is": (),
    "`--half`": ("--half",),
    "`--layers backbone`": ("--layers", "backbone"),
    "`--layers backbone --half`": ("--layers", "backbone", "--half"),
}
DATA_SETS = {"COCO train2017": 118_287, "Open Images": 1_743_042, "a billion": 1_000_000_000}


def main() -> None:
    """Print all tables."""
    if not MODEL.is_file():
        raise SystemExit(f"{MODEL} is not there: set DETCAM_ASSETS")
    with tempfile.TemporaryDirectory() as folder:
        for line in tables(Path(folder)):
            print(line, flush=True)


def tables(folder: Path) -> Iterator[str]:
    """Storage and throughput as measured, then on paper."""
    yield "| setting | KB a picture: maps, overlay, description | in all | pictures/s, one process |"
    yield "|---|---|---|---|"
    rates, sizes = {}, {}
    for number, (name, more) in enumerate(SETTINGS.items()):
        run = folder / f"one-{number}"
        explain(run, more, shards=1)
        rates[name], parts = rate(run), kilobytes(run)
        sizes[name] = sum(parts)
        each = ", ".join(f"{part:.0f}" for part in parts)
        yield f"| {name} | {each} | {sizes[name]:.0f} | {rates[name]:.2f} |"
    two = folder / "two"
    explain(two, (), shards=2)
    gain = rate(two) / rates["as it is"]
    yield f"\nTwo processes (`--shard 1/2`, `2/2`): {rate(two):.2f} pictures/s, {gain:.2f} of one.\n"
    yield "| data set | pictures | hours of such a process | storage as it is | `--layers backbone --half` |"
    yield "|---|---|---|---|---|"
    small = sizes["`--layers backbone --half`"]
    for name, count in DATA_SETS.items():
        hours = count / rates["as it is"] / 3600
        storage = (f"{float(f'{count * size / 1e9:.3g}'):,g} TB" for size in (sizes["as it is"], small))
        yield f"| {name} | {count:,} | {hours:,.0f} | {' | '.join(storage)} |"


def explain(run: Path, more: tuple[str, ...], shards: int) -> None:
    """The 64 photographs, shared among processes of equally many threads."""
    threads = str(max(1, (os.cpu_count() or 1) // shards))
    command = [sys.executable, "-m", "detcam", "explain", str(MODEL), str(PICTURES), *more]
    command += ["--project", str(run.parent), "--name", run.name]
    processes = [
        subprocess.Popen(
            [*command, *(["--shard", f"{shard}/{shards}"] if shards > 1 else [])],
            env={**os.environ, "OMP_NUM_THREADS": threads},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for shard in range(1, shards + 1)
    ]
    if any(process.wait() for process in processes):
        raise SystemExit(f"{' '.join(command)} failed")


def rate(run: Path) -> float:
    """Pictures a second from the first that was finished to the last: without imports and loading."""
    times = sorted(path.stat().st_mtime for path in run.glob("*_cam.json"))
    return (len(times) - 1) / (times[-1] - times[0])


def kilobytes(run: Path) -> list[float]:
    """A picture's arrays, overlay and description, on average."""
    ends = ("_cam.npz", "_cam.jpg", "_cam.json")
    files = [[path.stat().st_size for path in run.glob(f"*{end}")] for end in ends]
    return [sum(sizes) / len(sizes) / 1e3 for sizes in files]


if __name__ == "__main__":
    main()

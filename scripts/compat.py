#!/usr/bin/env python3
"""Repeat the adapter's tests against other ultralytics releases than the one installed.

    python scripts/compat.py                 # the releases below and the newest
    python scripts/compat.py 8.3.0 8.4.0     # these

Each release's wheel is unpacked into its own folder and put in front of the environment's packages; nothing
in the environment changes. The tests themselves check that they import the release they were told to.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEWEST = "newest"

# The oldest that is supported, the last of its series, the first with dictionaries as raw outputs and YOLO26,
# and the last whose end-to-end heads detach what they are given. What changed in between: see the adapter.
RELEASES = ("8.3.0", "8.3.253", "8.4.0", "8.4.112", NEWEST)

# What a release imports at once and the newest, which fills the environment, no longer does.
EXTRAS = {"8.3.0": ("tqdm", "py-cpuinfo", "scipy"), "8.3.253": ("scipy",), "8.4.0": ("scipy",)}


@dataclass(frozen=True)
class Outcome:
    """How one release's tests went.

    Attributes:
        release: its version, or what was asked for if it could not be had.
        has_passed: whether every test did.
        summary: pytest's own last line.
        log: everything it said.
        seconds: how long it took.
    """

    release: str
    has_passed: bool
    summary: str
    log: str
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Run the releases asked for; 0 if all of them pass."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("releases", nargs="*", default=RELEASES, help=f"versions, or {NEWEST!r}")
    parser.add_argument("--folder", type=Path, default=ROOT / ".compat", help="where the wheels are unpacked")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 2), help="releases at a time")
    options = parser.parse_args(arguments)

    outcomes = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(lambda release: tested(release, options.folder), options.releases):
            verdict = "passed" if outcome.has_passed else "FAILED"
            print(f"{outcome.release}: {verdict} in {outcome.seconds:.0f} s", flush=True)
            if not outcome.has_passed:
                print(outcome.log)
            outcomes.append(outcome)
    print()
    for outcome in outcomes:
        print(f"ultralytics {outcome.release:<8} {outcome.summary}")
    return 0 if all(outcome.has_passed for outcome in outcomes) else 1


def tested(release: str, folder: Path) -> Outcome:
    """Unpack a release and run the tests marked `compat` with it."""
    start = time.monotonic()
    try:
        version = unpacked(release, folder)
    except subprocess.CalledProcessError as error:
        return Outcome(release, False, "could not be downloaded", error.stdout, time.monotonic() - start)
    paths = [str(folder / version), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "DETCAM_COMPAT_RELEASE": version,
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "compat and not slow",
        "-p",
        "no:cacheprovider",
        "--color=no",
    ]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    summary = (run.stdout.strip().splitlines() or ["no output"])[-1]
    return Outcome(version, run.returncode == 0, summary, run.stdout, time.monotonic() - start)


def unpacked(release: str, folder: Path) -> str:
    """Bring a release into its folder, unless it is there already; its version.

    Raises:
        subprocess.CalledProcessError: pip cannot get it.
    """
    if release != NEWEST and (folder / release).is_dir():
        return release
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wanted = "ultralytics" if release == NEWEST else f"ultralytics=={release}"
        pip("download", "--no-deps", "--only-binary", ":all:", "--dest", scratch, wanted)
        (wheel,) = Path(scratch).glob("ultralytics-*.whl")
        version = wheel.name.split("-")[1]
        parts = Path(scratch, "parts")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(parts)
        # Wheels of old bring their own tests along, and would hide ours.
        shutil.rmtree(parts / "tests", ignore_errors=True)
        if EXTRAS.get(version):
            pip("install", "--no-deps", "--target", str(parts), *EXTRAS[version])
        if not (folder / version).is_dir():
            parts.rename(folder / version)
    return version


def pip(*arguments: str) -> None:
    """Run pip, quietly unless it fails."""
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


if __name__ == "__main__":
    sys.exit(main())

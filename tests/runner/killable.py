"""detcam in processes that can be killed, and what they leave behind."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from detcam.scenes import make_scene

SHAPES = Path(__file__).parents[2] / "weights" / "shapes.pt"
FAST = ("--method", "layer-cam", "--layers", "backbone", "--max-boxes", "2", "--device", "cpu")


def run_cli(
    arguments: list[str], folder: Path, environment: dict[str, str], before: Callable[[], None] | None
):
    """What a process of its own does: the command line; its words and its peak memory go into files."""
    os.chdir(folder)
    os.environ.update(environment)
    said = os.open(f"said-{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if before is not None:
        before()
    import torch

    from detcam.cli import main

    torch.set_num_threads(1)
    try:
        main(arguments)
    finally:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        Path("peak.txt").write_text(str(peak))


def draw(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(make_scene(number).image).save(path)
    (folder / "broken.png").write_bytes(b"no picture")
    return [*paths, folder / "broken.png"]


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The rows of a run, without the time it took."""
    lines = (run / "index.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "ms"} for line in lines]


def files_of(run: Path) -> dict[str, bytes]:
    """All files of a run's pictures: name -> content."""
    return {
        path.name: path.read_bytes()
        for path in sorted(run.iterdir())
        if path.is_file() and path.name not in ("index.jsonl", "run.json")
    }


def said(folder: Path) -> str:
    """All that processes have said in a folder."""
    return "".join(path.read_text() for path in sorted(folder.glob("said-*.txt")))

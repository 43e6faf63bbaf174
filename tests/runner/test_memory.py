"""A run's memory is that of a batch, however many pictures there are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from killable import draw


def peak_of(finish: Any, tmp_path: Path, count: int) -> float:
    """Megabytes that a run of so many pictures takes at most; ten scenes over and over."""
    folder = tmp_path / "pictures"
    for number in range(len(list(folder.iterdir())), count):
        (folder / f"{number:05d}.png").symlink_to(folder / f"{number % 10:03d}.png")
    asked = ("--imgsz", "64", "--conf", "0.05", "--name", f"of-{count}", "--batch", "4")
    assert finish(*asked, wait=3600) == 0
    rows = (tmp_path / f"runs/explain/of-{count}/index.jsonl").read_text().splitlines()
    assert len(rows) == count
    return int((tmp_path / "peak.txt").read_text()) * 1024 / 1e6


@pytest.mark.slow
def test_ten_thousand_pictures_take_the_memory_of_a_hundred(finish, tmp_path):
    draw(tmp_path / "pictures", 10)
    (tmp_path / "pictures/broken.png").unlink()
    few, many = (peak_of(finish, tmp_path, count) for count in (100, 10_000))
    assert many < 1.1 * few, f"100 pictures took {few:.0f} MB, 10,000 took {many:.0f}"
    sys.stdout.write(
        f"peak of 100 pictures {few:.0f} MB, of 10,000 {many:.0f} MB\n"
    )  # for docs/reliability.md

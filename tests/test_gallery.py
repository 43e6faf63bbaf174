"""The gallery that was drawn last is whole: `make gallery` draws it again."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcam.adapters import ADAPTERS, inspect
from detcam.cam.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
SHEETS = sorted((ROOT / "docs" / "images" / "gallery").glob("*.jpg"))
COLUMNS = 5


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.stem)
def test_a_sheet_is_small_and_has_a_tile_for_every_method_that_is_not_left_out(path):
    assert f"images/gallery/{path.name}" in PAGE
    left_out = [name for name in METHODS if f"On no sheet: method '{name}'" in PAGE]
    assert left_out == ["cam"]  # a detector has no linear layer behind a pooling
    assert path.stat().st_size <= 150_000
    pixels = np.asarray(Image.open(path).convert("L"))
    rows = -(-(len(METHODS) - len(left_out)) // COLUMNS)
    width, height = pixels.shape[1] // COLUMNS, pixels.shape[0] // rows
    tiles = [
        pixels[r * height : (r + 1) * height, c * width : (c + 1) * width]
        for r, c in np.ndindex(rows, COLUMNS)
    ]
    is_drawn = [tile.std() > 10 for tile in tiles]
    assert is_drawn == [True] * (len(METHODS) - 1) + [False] * (rows * COLUMNS - len(METHODS) + 1)


def test_families_are_shown_or_named_as_left_out():
    *shown, left_out = PAGE.split("\n## ")
    assert len(shown) == len(SHEETS) + 1
    for name in ADAPTERS:
        assert (f"[{name}]" in left_out) != any(f"read as [{name}]" in part for part in shown), name


def test_the_bundled_detectors_are_of_the_family_that_the_page_says():
    for name in ("shapes.pt", "shapes-shortcut.pt"):
        assert f"`{name}`, read as [{inspect(ROOT / 'weights' / name).family}]" in PAGE


def test_photographs_are_credited():
    for part in PAGE.split("\n## ")[1:-1]:
        assert ("CC BY 2.0" in part) == ("`shapes" not in part)

"""Where the examples leave their pictures, and how those are put together."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import detcam
from detcam.render import contact_sheet, with_colour_bar

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights"

SIDE = 256  # px of a tile
STYLE = detcam.OverlayStyle(upsampling="bicubic", power=0.7)

Tile = tuple[str, np.ndarray]


def out_folder(name: str) -> Path:
    """The folder that `--out` names, or `runs/examples/NAME`; a notebook's own arguments are passed over."""
    parser = argparse.ArgumentParser(description=f"The example {name}.py; see examples/README.md.")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "examples" / name, metavar="FOLDER")
    folder = parser.parse_known_args()[0].out
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def enlarged(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A small square picture (H, W, 3), uint8 or 0..1 floats, as (side, side, 3) uint8 RGB."""
    pixels = picture if picture.dtype == np.uint8 else (picture * 255).clip(0, 255).astype(np.uint8)
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_CUBIC)


def shaded(picture: np.ndarray, heatmap: object, high: float | None = None, side: int = SIDE) -> np.ndarray:
    """A small picture, enlarged, under a map; `high` is the value in full colour, None the map's largest."""
    style = STYLE if high is None else detcam.OverlayStyle(high=high, upsampling="bicubic", power=0.7)
    return detcam.overlay(enlarged(picture, side), heatmap, style)


def signed(values: np.ndarray, reach: float) -> np.ndarray:
    """A signed (H, W) array in grey: zero in the middle, -reach black, reach white."""
    grey = ((values / reach).clip(-1, 1) + 1) * 127.5
    return grey.astype(np.uint8)[..., None].repeat(3, axis=-1)


def outlined(
    picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = (255, 255, 255)
) -> np.ndarray:
    """An enlarged picture with the outline of a mask (h, w) on it."""
    grown = cv2.resize(mask.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture.copy(), contours, -1, colour, 2)


def by_level(explanation: detcam.Explanation, colormap: str = "inferno") -> np.ndarray:
    """A detector's evidence level by level and merged, side by side; a box has one scale."""
    views = [*explanation.levels, "merged"]
    tiles = [(view, explanation.overlay(level=view, colormap=colormap)) for view in views]
    return contact_sheet(tiles, 2, tile_side=400, numbered=False)


def save_sheet(path: Path, tiles: Sequence[Tile], columns: int, *, key: str | None = None) -> Image.Image:
    """Write titled pictures side by side as a JPEG, print its path, and give it for a notebook to show.

    Args:
        path: of the file.
        tiles: (title, picture) each.
        columns: in a row.
        key: what the colour means, for a colour bar under the sheet; None for no bar.
    """
    sheet = contact_sheet(tiles, columns, tile_side=SIDE, numbered=False)
    if key is not None:
        sheet = with_colour_bar(sheet, STYLE.colormap, "0", "largest", key)
    return save_picture(path, sheet)


def save_picture(path: Path, pixels: np.ndarray) -> Image.Image:
    """Write a picture as a JPEG, print its path, and give it for a notebook to show."""
    picture = Image.fromarray(pixels)
    picture.save(path, quality=88)
    print(path)
    return picture

"""Small data sets on disk, of pictures of a prime size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

HEIGHT, WIDTH = 61, 97
NAMES = {0: "cat", 1: "dog"}


def write_picture(path: Path, orientation: int = 1, pixels: np.ndarray | None = None) -> Path:
    """A grey picture of 97×61 as stored, or these pixels, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.full((HEIGHT, WIDTH, 3), 127, np.uint8) if pixels is None else pixels
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def write_yolo(folder: Path, lines: str = "1 0.5 0.5 0.25 0.5\n", /, **said: object) -> Path:
    """One picture with these label lines; the data.yaml says this beside or instead of the usual."""
    write_picture(folder / "images" / "a.png")
    write_text(folder / "labels" / "a.txt", lines)
    content = {"val": "images", "names": NAMES} | said
    kept = {key: value for key, value in content.items() if value is not None}
    return write_text(folder / "data.yaml", yaml.safe_dump(kept))


def write_coco(folder: Path, annotations: list, /, **said: object) -> Path:
    """One picture with these annotations of image 7, which get what they lack."""
    write_picture(folder / "a.png")
    usual = {"id": 12, "image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 5], "iscrowd": 0}
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [usual | one if isinstance(one, dict) else one for one in annotations],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
    } | said
    return write_text(folder / "instances.json", json.dumps(content))

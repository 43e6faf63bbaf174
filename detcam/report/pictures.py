"""Photographs, overlays and sheets as JPEGs small enough to travel inside a page."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from detcam.errors import InputError
from detcam.images import Picture, read_picture
from detcam.render import shrink
from detcam.report.reading import StoredExplanation

PHOTO_SIDE, PHOTO_BYTES = 1280, 260_000
_QUALITIES = (88, 80, 70, 60, 45, 30)
_SMALLEST_SIDE = 64  # pixels; whatever it takes then


def original(explanation: StoredExplanation, images: Path | None) -> Picture:
    """The photograph that was explained.

    Args:
        explanation: which.
        images: a folder where it lies now, if it was moved; by default it is looked for where it was.

    Raises:
        InputError: it is not there, or is another one now.
    """
    if explanation.image is None:
        raise InputError("the picture was in memory and is no file: save it and explain that")
    path = explanation.image if images is None else images / explanation.image.name
    if not os.path.isfile(path):
        raise InputError(
            f"the picture {path} is not there: run where it was explained, or give --images FOLDER"
        )
    picture = read_picture(path)
    if picture.sha256 != explanation.sha256 or picture.pixels.shape[:2] != explanation.geometry.image_size:
        raise InputError(f"{path} is not the picture that was explained: explain it again")
    return picture


def as_jpeg(pixels: npt.NDArray[np.uint8], longest_side: int, most_bytes: int) -> bytes:
    """A JPEG of at most `longest_side` pixels, as good as fits into `most_bytes`; smaller if none does.

    Args:
        pixels: (H, W, 3) RGB.
        longest_side: in pixels.
        most_bytes: of the file; some hundreds at least.
    """
    small = Image.fromarray(shrink(pixels, longest_side))
    for quality in _QUALITIES:
        file = io.BytesIO()
        small.save(file, format="JPEG", quality=quality, optimize=True)
        if file.tell() <= most_bytes or longest_side <= _SMALLEST_SIDE:
            return file.getvalue()
    return as_jpeg(pixels, longest_side * 3 // 4, most_bytes)

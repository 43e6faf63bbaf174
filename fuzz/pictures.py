"""Pictures of every format that is read."""

from __future__ import annotations

import io
from contextlib import suppress
from unittest.mock import patch

import numpy as np
from as_file import as_file
from PIL import Image

from detcam import images
from detcam.errors import DetcamError
from detcam.images import read_frame, read_picture

_MOST_PIXELS = 1 << 20  # less than in use, so that an input takes milliseconds
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")


def seeds() -> list[bytes]:
    """A small picture in each format that this Pillow writes, and in the less usual modes."""
    pixels = np.arange(13 * 17 * 3, dtype=np.uint8).reshape(13, 17, 3)
    image, found = Image.fromarray(pixels), []
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [(image, name, {}) for name in _FORMATS] + [
        (image, "JPEG", {"exif": exif, "icc_profile": b"none"})
    ]
    made += [
        (image.convert(mode), "TIFF", {})
        for mode in ("1", "L", "LA", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr")
    ]
    made += [
        (image.convert("P"), "PNG", {}),
        (image.convert("P"), "GIF", {"save_all": True, "append_images": [image]}),
    ]
    for one, name, options in made:
        file = io.BytesIO()
        with suppress(KeyError, OSError, ValueError):  # a format that this Pillow lacks
            one.save(file, name, **options)
            found.append(file.getvalue())
    return found


def check(data: bytes) -> None:
    """Only an error of detcam's may come out."""
    path = as_file("picture", data)
    for read in (read_frame, read_picture):
        with patch.object(images, "MAX_PIXELS", _MOST_PIXELS), suppress(DetcamError):
            read(path)

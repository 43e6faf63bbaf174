"""A raw map as a 16-bit PNG that any viewer opens and that can be read back as numbers."""

from __future__ import annotations

import os
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from detcam.errors import ImageError
from detcam.images import MAX_PIXELS
from detcam.render.colour import FloatArray, check_map

_LOW, _HIGH = "detcam:low", "detcam:high"
_STEPS = 65535


class EncodedMap(NamedTuple):
    """A map in 65536 steps: value = low + (high - low)·code / 65535."""

    codes: npt.NDArray[np.uint16]
    low: float
    high: float


def encode_map_16bit(heatmap: npt.NDArray[Any]) -> EncodedMap:
    """Spread a map over all 16-bit codes, minimum to 0 and maximum to 65535; sign and scale are kept.

    Reading back errs by half a step at most, (high - low) / 131070.

    Raises:
        ShapeError: the map is not (H, W).
        InputError: it holds NaN or infinity.
    """
    check_map(heatmap)
    low, high = float(heatmap.min()), float(heatmap.max())
    span = high - low or 1.0
    codes = np.rint((heatmap.astype(np.float64) - low) / span * _STEPS).astype(np.uint16)
    return EncodedMap(codes, low, high)


def decode_map_16bit(encoded: EncodedMap) -> FloatArray:
    """Read the codes as raw values, (H, W) float32."""
    codes, low, high = encoded
    return (low + (high - low) * (codes.astype(np.float64) / _STEPS)).astype(np.float32)


def write_map_png(file: str | os.PathLike[str] | BinaryIO, heatmap: npt.NDArray[Any]) -> None:
    """Write a 16-bit grey PNG; its text chunk holds the two ends of the scale, to the last digit.

    Raises:
        ShapeError: the map is not (H, W).
        InputError: it holds NaN or infinity.
    """
    codes, low, high = encode_map_16bit(heatmap)
    scale = PngInfo()
    scale.add_text(_LOW, repr(low))
    scale.add_text(_HIGH, repr(high))
    Image.fromarray(codes).save(file, format="PNG", pnginfo=scale)


def read_map_png(file: str | os.PathLike[str] | BinaryIO) -> FloatArray:
    """Read back what `write_map_png` wrote, (H, W) float32.

    Raises:
        ImageError: the file cannot be read, or holds no scale.
    """
    try:
        # The plugin, not `Image.open`, which others patch; hence no check for bombs but our own.
        with PngImageFile(os.fspath(file) if isinstance(file, os.PathLike) else file) as image:
            low, high = float(image.info[_LOW]), float(image.info[_HIGH])
            if not image.mode.startswith("I") or image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{file}: a map is 16-bit grey, got {image.mode} of {image.size}")
            return decode_map_16bit(EncodedMap(np.asarray(image).astype(np.uint16), low, high))
    except KeyError as missing:
        raise ImageError(f"{file}: has no {missing} text; only write_map_png's files are maps") from missing
    except (OSError, SyntaxError) as failure:
        raise ImageError(f"{file}: not a PNG that can be read ({failure}); write the map again") from failure

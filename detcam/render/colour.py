"""From raw values to colours: the scale, the colour maps, the overlay."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from detcam.errors import InputError, ShapeError, UnknownNameError

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


def _from_opencv(opencv_code: int) -> UInt8Array:
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    table = np.ascontiguousarray(cv2.applyColorMap(ramp, opencv_code)[:, 0, ::-1])
    table.setflags(write=False)
    return table


# Name -> (256, 3) RGB. In the first three lightness rises from end to end, so that a larger value never
# looks smaller, in print and to the colour-blind too; turbo and jet have to be asked for.
COLORMAPS: dict[str, UInt8Array] = {
    "inferno": _from_opencv(cv2.COLORMAP_INFERNO),
    "viridis": _from_opencv(cv2.COLORMAP_VIRIDIS),
    "magma": _from_opencv(cv2.COLORMAP_MAGMA),
    "turbo": _from_opencv(cv2.COLORMAP_TURBO),
    "jet": _from_opencv(cv2.COLORMAP_JET),
}

DIVERGING = (
    "coolwarm"  # Moreland 2009: blue below zero, red above, light grey at zero, equally light at both ends
)
GREY = "grey"


@functools.cache
def _diverging_table() -> UInt8Array:
    import matplotlib  # here, since it takes 0.2 s

    # 255 colours have one in the middle. Given twice, it makes zero neutral, v and -v equally far from it.
    colours = matplotlib.colormaps[DIVERGING].resampled(255)(np.arange(255))[:, :3]
    rounded = np.rint(colours * 255).astype(np.uint8)
    table = np.concatenate([rounded[:128], rounded[127:]])
    table.setflags(write=False)
    return table


@functools.cache
def _grey_table() -> UInt8Array:
    table = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    table.setflags(write=False)
    return table


def scale_map(heatmap: npt.NDArray[Any], low: float, high: float) -> FloatArray:
    """Bring raw values to 0..1: `low` and less becomes 0, `high` and more becomes 1.

    The caller chooses the range, since only it knows which maps are to be compared. For maps with a sign
    (Eigen-CAM, differences) the usual range starts at 0: negative evidence is then not drawn.

    Args:
        heatmap: (H, W), raw.
        low: the value drawn as nothing.
        high: the value drawn in full.

    Returns:
        (H, W) float32. All zeros for a constant map, which points nowhere, and for an empty range.

    Raises:
        ShapeError: the map is not (H, W).
        InputError: it holds NaN or infinity, or the range does or is upside down.
    """
    check_map(heatmap)
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise InputError(f"a range needs finite low <= high, got {low:.6g}..{high:.6g}")
    if low == high or heatmap.min() == heatmap.max():
        return np.zeros(heatmap.shape, np.float32)
    scaled = (heatmap.astype(np.float64) - low) / (float(high) - float(low))
    return scaled.clip(0, 1).astype(np.float32)


def strongest_share(heatmap: npt.NDArray[Any], share: float = 0.1) -> float:
    """The value that the strongest cells of a map reach which hold a share of its positive evidence together.

    Drawn in full from there on, a map of a few sharp peaks stays visible, which its maximum would leave dark.

    Args:
        heatmap: (h, w), raw; what is negative does not count.
        share: of the sum, 0..1.

    Returns:
        A positive value of the map; 0 where there is none.
    """
    values = np.sort(heatmap[heatmap > 0].astype(np.float64))[::-1]
    if not len(values):
        return 0.0
    sums = np.cumsum(values)
    return float(values[np.searchsorted(sums, share * sums[-1])])


def colourise(values: FloatArray, colormap: str = "inferno") -> UInt8Array:
    """Colour values 0..1: (H, W) -> (H, W, 3) RGB."""
    return lookup_table(colormap)[_table_rows(values)]


def blend(
    image: UInt8Array,
    values: FloatArray,
    colormap: str = "inferno",
    opacity: float = 0.85,
    power: float = 0.75,
) -> UInt8Array:
    """Lay a scaled map over a picture, the more opaque the larger the value.

    A pixel is image·(1 - α) + colour(v)·α with α = opacity·v**power: where the map says nothing, the
    picture keeps its very bytes.

    Args:
        image: (H, W, 3) RGB.
        values: (H, W) in 0..1, upsampled already; colours are made at full resolution only.
        colormap: a name in `COLORMAPS`.
        opacity: α where the value is 1; 0..1.
        power: below 1 lifts weak evidence, above 1 shows the peaks only.

    Raises:
        ShapeError: picture and map differ in size.
        InputError: values, opacity or power out of range.
    """
    check_image(image)
    table = lookup_table(colormap)
    if values.shape != image.shape[:2]:
        raise ShapeError(f"map and picture must be of one size, got {values.shape} and {image.shape[:2]}")
    if not (0 <= opacity <= 1 and power > 0):
        raise InputError(f"opacity must be in 0..1 and power above 0, got {opacity} and {power}")
    rows = _table_rows(values)
    alpha = (opacity * values.astype(np.float32) ** power)[..., None]
    mixed: FloatArray = image * (1 - alpha) + table[rows] * alpha
    return np.rint(mixed).astype(np.uint8)


def lookup_table(colormap: str) -> UInt8Array:
    """Find a colour map, (256, 3) RGB, by its name: a key of `COLORMAPS`, `DIVERGING` or `GREY`."""
    if colormap in (DIVERGING, GREY):
        return _diverging_table() if colormap == DIVERGING else _grey_table()
    if colormap not in COLORMAPS:
        raise UnknownNameError("colour map", colormap, COLORMAPS)
    return COLORMAPS[colormap]


def check_map(heatmap: npt.NDArray[Any]) -> None:
    """Refuse what is not a finite (H, W) map."""
    if heatmap.ndim != 2 or not heatmap.size:
        raise ShapeError(f"a map must be (H, W), got {heatmap.shape}")
    if not np.isfinite(heatmap).all():
        count = int((~np.isfinite(heatmap)).sum())
        raise InputError(f"a map must be finite, got {count} NaN or infinite values of {heatmap.size}")


def check_image(image: npt.NDArray[Any]) -> None:
    """Refuse what is not a (H, W, 3) uint8 picture."""
    if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype != np.uint8:
        raise ShapeError(f"a picture must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")


def _table_rows(values: FloatArray) -> UInt8Array:
    if not (values.size and values.min() >= 0 and values.max() <= 1):  # NaN fails both
        raise InputError("values must lie in 0..1; scale_map brings a raw map there")
    return np.rint(values * 255).astype(np.uint8)

"""One call that lays a map over a picture, whatever form both are in: what people draw by hand otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from detcam.errors import InputError, ShapeError, UnknownNameError
from detcam.images import as_picture
from detcam.render import blend, scale_map

UPSAMPLING: dict[str, int] = {
    "linear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST_EXACT,
}


@dataclass(frozen=True)
class OverlayStyle:
    """How a map is laid over a picture.

    Attributes:
        low: the value drawn as nothing.
        high: the value drawn in full; None for each map's largest.
        upsampling: a key of `UPSAMPLING`, by which the map grows to the picture's size.
        blur: standard deviation of a Gaussian that smooths the grown map, in pixels; 0 for none.
        colormap: a key of `COLORMAPS`.
        opacity: of the largest values, 0..1.
        power: opacity follows the value to this power; below 1 it lifts what is weak.
    """

    low: float = 0.0
    high: float | None = None
    upsampling: str = "linear"
    blur: float = 0.0
    colormap: str = "inferno"
    opacity: float = 0.85
    power: float = 0.7

    def __post_init__(self) -> None:
        if self.upsampling not in UPSAMPLING:
            raise UnknownNameError("upsampling", self.upsampling, UPSAMPLING)
        if not self.blur >= 0:
            raise InputError(f"blur must be 0 or more pixels, got {self.blur!r}")


def overlay(
    image: Any,
    heatmap: Any,
    style: OverlayStyle | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Any:
    """Lay a map over a picture, or each of a batch over its own.

    Args:
        image: a path, a PIL picture, a uint8 or 0..1 float array or tensor, (H, W, 3), (3, H, W) or (H, W);
            or a batch: (B, …) of these, or a list.
        heatmap: (h, w) raw values, array or tensor; for a batch (B, h, w), or a list.
        style: how; None for the defaults.
        mean: what was taken out of each channel of a normalised picture; with `std`.
        std: what each channel was divided by afterwards.

    Returns:
        (H, W, 3) uint8 RGB; for a batch a list of these.

    Raises:
        ImageError: a picture cannot be read, or is none.
        ShapeError: a map is not (h, w), or there are other numbers of maps and pictures.
        InputError: a map or the style cannot be used.
    """
    style = OverlayStyle() if style is None else style
    if (mean is None) != (std is None):
        raise InputError("a normalised picture is told by both mean and std")
    if not _is_batch(image):
        return _overlaid(image, _map(heatmap), style, mean, std)
    maps = list(heatmap)
    if len(image) != len(maps):
        raise ShapeError(f"one map for each picture is wanted: got {len(maps)} for {len(image)} pictures")
    return [_overlaid(one, _map(own), style, mean, std) for one, own in zip(image, maps, strict=True)]


def _is_batch(image: Any) -> bool:
    return isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4


def _map(heatmap: Any) -> npt.NDArray[np.float32]:
    values = heatmap.detach().float().cpu().numpy() if hasattr(heatmap, "detach") else np.asarray(heatmap)
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 or not values.size:
        raise ShapeError(f"a map must be (h, w), got {values.shape}")
    return values.astype(np.float32)


def _overlaid(
    image: Any,
    heatmap: npt.NDArray[np.float32],
    style: OverlayStyle,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> npt.NDArray[np.uint8]:
    picture = image if mean is None or std is None else _denormalised(image, mean, std)
    pixels = as_picture(picture).pixels
    height, width = pixels.shape[:2]
    grown = cv2.resize(heatmap, (width, height), interpolation=UPSAMPLING[style.upsampling])
    if style.blur:
        grown = cv2.GaussianBlur(grown, (0, 0), style.blur)
    # The top is the map's own: blurring and growing change how high it reaches, not what it says.
    high = max(float(heatmap.max()), style.low) if style.high is None else style.high
    values = scale_map(grown, style.low, high)
    return blend(pixels, values, style.colormap, style.opacity, style.power)


def _denormalised(image: Any, mean: Sequence[float], std: Sequence[float]) -> npt.NDArray[np.float32]:
    """A picture (3, H, W) or (H, W, 3) of which mean and deviation were taken out, in 0..1 again."""
    values = image.detach().float().cpu().numpy() if hasattr(image, "detach") else np.asarray(image)
    channels = len(mean)
    if len(std) != channels or values.ndim != 3 or channels not in (values.shape[0], values.shape[2]):
        raise ShapeError(
            f"a normalised picture has as many channels as mean and std have numbers, {channels} and "
            f"{len(std)}, got {values.shape}"
        )
    shape = (channels, 1, 1) if values.shape[0] == channels else (channels,)
    restored = values * np.reshape(std, shape) + np.reshape(mean, shape)
    if restored.min() < -0.02 or restored.max() > 1.02:
        raise InputError(
            f"with this mean and std the picture reaches from {restored.min():.3g} to {restored.max():.3g}, "
            "not from 0 to 1: are they the ones it was normalised with?"
        )
    return np.asarray(restored.clip(0, 1), np.float32)

"""Gaussian blur of pictures and maps, with the borders mirrored."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from detcam.errors import InputError


def gaussian_blur(pictures: Tensor, kernel: int, sigma: float) -> Tensor:
    """Blur (…, H, W) with a Gaussian of `kernel` × `kernel` pixels, cut off and scaled to sum to 1.

    Borders are mirrored at the last pixel's centre, as OpenCV does (BORDER_REFLECT_101), as often as need be.

    Args:
        pictures: floating point.
        kernel: odd number of pixels.
        sigma: in pixels, above 0.

    Raises:
        InputError: no odd kernel, or no positive sigma.
    """
    if kernel < 1 or kernel % 2 == 0 or not sigma > 0:
        raise InputError(f"a blur needs an odd kernel and a sigma above 0, got {kernel} and {sigma}")
    offsets = torch.arange(kernel, dtype=torch.float64) - kernel // 2
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).to(pictures)
    height, width = pictures.shape[-2:]
    flat = pictures.reshape(-1, 1, height, width)
    flat = functional.conv2d(flat[..., _mirrored(height, kernel // 2), :], weights.view(1, 1, -1, 1))
    flat = functional.conv2d(flat[..., _mirrored(width, kernel // 2)], weights.view(1, 1, 1, -1))
    return flat.reshape(pictures.shape)


def _mirrored(side: int, border: int) -> Tensor:
    """Indices into one side, `border` more at both ends, mirrored: 2 1 [0 1 2 3] 2 1."""
    period = max(2 * (side - 1), 1)
    positions = torch.arange(-border, side + border) % period
    return torch.minimum(positions, period - positions).clamp(max=side - 1)

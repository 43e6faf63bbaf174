"""How alike two maps are: for sanity checks, where a map must change when what it explains does.

Adebayo et al. 2018, arXiv:1810.03292: compare the map with the one after weights were randomised, layer by
layer; equally with another class's map, or another box's. The caller makes the second map; lower is better.
At a head's input two boxes' maps differ, and a random network's maps stay in the box, whatever the method:
there these checks fail or pass for the wrong reason. Differs from the paper: no similarity of HOG features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detcam.errors import ShapeError
from detcam.metrics.inputs import check_maps
from detcam.metrics.smoothing import gaussian_blur


def spearman(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps' pixels, signs kept; equal values share their mean rank.

    Adebayo et al. 2018, arXiv:1810.03292 ("no ABS"). What most relu'd maps share is their zeros.

    Args:
        maps: (…, H, W).
        others: same shape.

    Returns:
        (…,) float64, -1..1, nan where either map is the same everywhere.

    Raises:
        ShapeError: two shapes.
        InputError: a value is not finite.
    """
    first, second = _both(maps, others)
    first, second = (_ranks(x.flatten(-2)) for x in (first, second))
    first, second = (x - x.mean(dim=-1, keepdim=True) for x in (first, second))
    scale = (first**2).sum(dim=-1).sqrt() * (second**2).sum(dim=-1).sqrt()
    correlation = ((first * second).sum(dim=-1) / scale.where(scale > 0, 1.0)).clamp(-1, 1)
    return correlation.where(scale > 0, torch.nan)


def spearman_abs(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps' absolute values ("ABS"): as `spearman`.

    Raises:
        ShapeError: two shapes.
        InputError: a value is not finite.
    """
    return spearman(maps.abs(), others.abs())


def ssim(maps: Tensor, others: Tensor) -> Tensor:
    """Structural similarity (SSIM) of two maps, each over its largest absolute value; mean over the pixels.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13, with its 11 × 11 Gaussian window, σ = 1.5,
    K1 = .01, K2 = .03; used by Adebayo et al. 2018. The range L is 2, as scaled maps lie in -1..1.
    Differs from Wang: borders are mirrored, so that small maps can be compared. Unsure: Adebayo's own window
    and scaling were not checked; do not compare these numbers with that paper's.

    Args:
        maps: (…, H, W).
        others: same shape.

    Returns:
        (…,) float64, -1..1, nan where either map is zero everywhere.

    Raises:
        ShapeError: two shapes.
        InputError: a value is not finite.
    """
    pair = _both(maps, others)
    largest = [x.abs().amax(dim=(-2, -1), keepdim=True) for x in pair]
    x, y = (each / most.where(most > 0, 1.0) for each, most in zip(pair, largest, strict=True))
    mean_x, mean_y, xx, yy, xy = (gaussian_blur(z, 11, 1.5) for z in (x, y, x * x, y * y, x * y))
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    most = (mean_x**2 + mean_y**2 + c1) * (xx - mean_x**2 + yy - mean_y**2 + c2)
    is_defined = ((largest[0] > 0) & (largest[1] > 0))[..., 0, 0]
    return (likeness / most).mean(dim=(-2, -1)).where(is_defined, torch.nan)


def _both(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    if maps.shape != others.shape:
        raise ShapeError(
            f"two maps must have one shape, got {tuple(maps.shape)} and {tuple(others.shape)}: "
            "bring both to the picture's size"
        )
    check_maps(maps)
    check_maps(others)
    return maps.double(), others.double()


def _ranks(values: Tensor) -> Tensor:
    """Ranks of (…, n) from 0, equal values sharing their mean."""
    ordered, places = values.sort(dim=-1)
    numbers = torch.arange(values.shape[-1], device=values.device).expand(values.shape)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    first = numbers.where(is_new, 0).cummax(dim=-1).values
    # The last of a run of equal values stands before the next new one.
    is_last = is_new.roll(-1, dims=-1)
    last = numbers.where(is_last, values.shape[-1]).flip(-1).cummin(dim=-1).values.flip(-1)
    return torch.empty_like(values).scatter_(-1, places, (first + last).to(values) / 2)

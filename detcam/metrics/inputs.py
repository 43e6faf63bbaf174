"""What metrics share: maps and regions whose shapes fit, the evidence in a map, ratios that may be undefined.

Sizes are (H, W), boxes xyxy in the picture's pixels; the pixel in row r and column c covers
[c, c+1] × [r, r+1]. Sums are in float64: on Apple's GPU, which has none, move maps to the CPU first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detcam.errors import InputError, ShapeError


def check_maps(maps: Tensor) -> None:
    """Check for finite maps, (…, H, W), with at least one pixel.

    Raises:
        ShapeError: fewer than two dimensions, or no pixel.
        InputError: a value is not finite: there is no metric of such a map.
    """
    if maps.ndim < 2 or 0 in maps.shape[-2:]:
        raise ShapeError(f"maps must be (…, H, W) with at least one pixel, got {tuple(maps.shape)}")
    if not bool(maps.isfinite().all()):
        raise InputError("maps must be finite, got nan or inf: look at the method that made them")


def check_boxes(boxes: Tensor, rows: tuple[int, ...], name: str = "boxes") -> Tensor:
    """Give boxes in float64, checked: one for each of `rows`.

    Raises:
        ShapeError: not (*rows, 4).
        InputError: a box ends before it begins, or is not finite.
    """
    if tuple(boxes.shape) != (*rows, 4):
        raise ShapeError(f"{name} must be {(*rows, 4)}, got {tuple(boxes.shape)}")
    boxes = boxes.double()
    ordered = (boxes[..., :2] <= boxes[..., 2:]).all(dim=-1) & boxes.isfinite().all(dim=-1)
    if not bool(ordered.all()):
        worst = boxes[~ordered][0].tolist()
        raise InputError(f"{name} must be finite xyxy with x1 <= x2 and y1 <= y2, got {worst}")
    return boxes


def check_masks(masks: Tensor, shape: tuple[int, ...], name: str = "masks") -> None:
    """Check for masks of `shape`.

    Raises:
        ShapeError: another shape.
        InputError: not of dtype bool: where a soft mask ends is the caller's choice.
    """
    if tuple(masks.shape) != shape:
        raise ShapeError(f"{name} must be {shape}, got {tuple(masks.shape)}")
    if masks.dtype != torch.bool:
        raise InputError(f"{name} must be bool, got {masks.dtype}: threshold them first")


def evidence(maps: Tensor) -> Tensor:
    """What a map holds *for* its box: its positive part in float64, over its largest value; 0..1.

    Over the largest value, so that no unit is too small or too large to be summed. A map without a positive
    value becomes zeros.
    """
    positive = maps.double().clamp(min=0)
    largest = positive.amax(dim=(-2, -1), keepdim=True)
    return positive / largest.where(largest > 0, 1.0)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """`part` / `whole`, nan where `whole` is not above 0."""
    is_defined = whole > 0
    return (part / whole.where(is_defined, 1.0)).where(is_defined, torch.nan)


def coverage(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of each pixel that a box covers: (…, 4) -> (…, H, W) in 0..1."""
    x1, y1, x2, y2 = boxes[..., None].unbind(dim=-2)
    rows, columns = pixel_starts(size, boxes)
    across = (torch.minimum(x2, columns + 1) - torch.maximum(x1, columns)).clamp(min=0)
    down = (torch.minimum(y2, rows + 1) - torch.maximum(y1, rows)).clamp(min=0)
    return down[..., :, None] * across[..., None, :]


def holds_centre(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether a box holds a pixel's centre, its left and upper edge included: (…, 4) -> (…, H, W) bool."""
    x1, y1, x2, y2 = boxes[..., None].unbind(dim=-2)
    rows, columns = (starts + 0.5 for starts in pixel_starts(size, boxes))
    across, down = (x1 <= columns) & (columns < x2), (y1 <= rows) & (rows < y2)
    return down[..., :, None] & across[..., None, :]


def pixel_starts(size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Upper edges of the rows (H,) and left edges of the columns (W,), float64, on `like`'s device."""
    rows, columns = (torch.arange(side, dtype=torch.float64, device=like.device) for side in size)
    return rows, columns

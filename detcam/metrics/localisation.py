"""Where a map lies: pointing game, energy in a region, compactness, VEA, ODI. One number a map.

A map is (H, W) or, with the same number of boxes or masks, (M, H, W): raw, on the picture. Only its positive
part counts, evidence *for* the box: negative values are clipped at 0 before anything is summed (the papers'
maps have none). Where a map has no positive value, everything here is undefined: nan, to be counted, never 0.
Everything here is independent of a map's unit. None of it asks the network: a drawn box scores well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detcam.errors import InputError, ShapeError
from detcam.metrics.inputs import (
    check_boxes,
    check_maps,
    check_masks,
    coverage,
    evidence,
    holds_centre,
    pixel_starts,
    ratio,
)

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def pointing_game(maps: Tensor, boxes: Tensor) -> Tensor:
    """Pointing game: whether the map's largest value lies in the box.

    Zhang et al. 2018 (Excitation Backprop), arXiv:1608.00507: hits / (hits + misses), the mean of this.
    Differs from the paper: no tolerance of 15 pixels, as in the ODAM and D-CLOSE code. Differs from that
    code: of several largest values each counts its share, where it takes the first; a pixel is its centre.

    Args:
        maps: (…, H, W).
        boxes: (…, 4) xyxy in pixels.

    Returns:
        (…,) float64, 0..1: 0 or 1 unless the largest value occurs more than once. nan where the map has no
        positive value or the box holds no pixel's centre.

    Raises:
        ShapeError: not one box a map.
        InputError: a value is not finite, or a box ends before it begins.
    """
    return _pointing(maps, holds_centre(_boxes(maps, boxes), _size(maps)))


def pointing_game_in_mask(maps: Tensor, masks: Tensor) -> Tensor:
    """Pointing game: whether the map's largest value lies on the object's mask.

    As `pointing_game`, with masks (…, H, W) bool. nan also where a mask is empty.

    Raises:
        ShapeError: not one mask a map.
        InputError: a map is not finite, or a mask not bool.
    """
    return _pointing(maps, _masks(maps, masks))


def energy_in_box(maps: Tensor, boxes: Tensor) -> Tensor:
    """Energy-based pointing game (EBPG): the share of the map that lies in the box, Σ inside / Σ all.

    Wang et al. 2020 (Score-CAM), arXiv:1910.01279. Differs from the ODAM and D-CLOSE code: a pixel
    that the box covers in part counts in part; they round outwards, or down. A map of zeros is nan; both call
    it 0. What a map that knows nothing gets is the box's share of the picture.

    Args:
        maps: (…, H, W).
        boxes: (…, 4) xyxy in pixels.

    Returns:
        (…,) float64, 0..1, nan where the map has no positive value or the box covers nothing of the picture.

    Raises:
        ShapeError: not one box a map.
        InputError: a value is not finite, or a box ends before it begins.
    """
    return _energy(maps, coverage(_boxes(maps, boxes), _size(maps)))


def energy_in_mask(maps: Tensor, masks: Tensor) -> Tensor:
    """Energy-based pointing game on the object's mask: the share of the map that lies on it.

    As `energy_in_box`, with masks (…, H, W) bool. nan also where a mask is empty.

    Raises:
        ShapeError: not one mask a map.
        InputError: a map is not finite, or a mask not bool.
    """
    return _energy(maps, _masks(maps, masks).double())


def compactness(maps: Tensor, boxes: Tensor) -> Tensor:
    """Compactness: how far the map spreads around its maximum, in half diagonals of the box.

    sqrt(Σ H·d² / ((w² + h²) / 4 · Σ H)), d from the map's largest value. Zhao and Chan 2023 (ODAM),
    arXiv:2304.06354, as in its code, `tools/eval_pointgame.py`. Differs from the code: of several largest
    values d² is the mean over all of them, not that of the first.

    Args:
        maps: (…, H, W).
        boxes: (…, 4) xyxy in pixels; only their size matters.

    Returns:
        (…,) float64 >= 0, lower is better: 0 is a single pixel, wherever it lies, 1 a ring through the box's
        corners. nan where the map has no positive value or the box no size.

    Raises:
        ShapeError: not one box a map.
        InputError: a value is not finite, or a box ends before it begins.
    """
    boxes = _boxes(maps, boxes)
    energy = evidence(maps)
    maxima = _maxima(maps).double()
    spread = torch.zeros_like(boxes[..., 0])
    rows, columns = pixel_starts(_size(maps), maps)
    for positions, other in ((rows, -1), (columns, -2)):
        weights = maxima.sum(dim=other)
        centre = ratio((weights * positions).sum(dim=-1), weights.sum(dim=-1))[..., None]
        # The mean of (p - m)² over the maxima m is (p - mean)² + their variance.
        squares = (positions - centre) ** 2
        variance = ratio((weights * squares).sum(dim=-1), weights.sum(dim=-1))
        along = energy.sum(dim=other)
        spread = spread + (along * squares).sum(dim=-1) + variance * along.sum(dim=-1)
    size = ((boxes[..., 2:] - boxes[..., :2]) ** 2).sum(dim=-1) / 4
    return ratio(spread, size * energy.sum(dim=(-2, -1))).sqrt()


def vea_curve(maps: Tensor, masks: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Visual explanation accuracy (VEA): IoU of the map above a threshold with the mask, at each threshold.

    Oramas et al. 2019 (arXiv:1712.06302) as used by ODAM, `tools/eval_mask_IoU.py`: H > t after min-max.
    Negative values are clipped at 0 before the map is scaled.

    Args:
        maps: (…, H, W).
        masks: (…, H, W) bool.
        thresholds: T of them, 0 <= t < 1, of the scaled map.

    Returns:
        (…, T) float64, 0..1, nan where the map has no positive value or only one value, or the mask is empty.

    Raises:
        ShapeError: not one mask a map.
        InputError: a map is not finite, a mask not bool, or a threshold outside 0 <= t < 1.
    """
    masks = _masks(maps, masks)
    if not thresholds or not all(0 <= t < 1 for t in thresholds):
        raise InputError(f"thresholds must be at least one number, each 0 <= t < 1, got {list(thresholds)}")
    energy = evidence(maps)
    lowest, highest = energy.amin(dim=(-2, -1), keepdim=True), energy.amax(dim=(-2, -1), keepdim=True)
    scaled = ratio(energy - lowest, (highest - lowest).expand_as(energy))
    is_defined = (highest > lowest)[..., 0, 0] & masks.any(dim=-1).any(dim=-1)
    curve = []
    for threshold in thresholds:
        above = scaled > threshold
        shared, joint = (x.sum(dim=(-2, -1)).double() for x in (above & masks, above | masks))
        curve.append(ratio(shared, joint).where(is_defined, torch.nan))
    return torch.stack(curve, dim=-1)


def vea(maps: Tensor, masks: Tensor) -> Tensor:
    """Visual explanation accuracy at the best of the thresholds .1 … .9: the largest of `vea_curve`.

    Each map chooses its threshold with the truth in hand: for comparing maps, not a rate anyone will see.

    Returns:
        (…,) float64, 0..1, nan as in `vea_curve`.

    Raises:
        ShapeError: not one mask a map.
        InputError: a map is not finite, or a mask not bool.
    """
    return vea_curve(maps, masks).amax(dim=-1)


def odi(maps: Tensor, object_boxes: Tensor, explained: Tensor) -> Tensor:
    """Object discrimination index (ODI): of the energy in the picture's objects, the share in the others.

    Σ H over the union of the other objects / Σ H over the union of all. Zhao and Chan 2023 (ODAM),
    arXiv:2304.06354, as in `tools/eval_odi.py`: where another object overlaps the explained one, energy
    there counts as the other's. Differs from the code: pixels at the boxes' edges count by the largest share
    that one box covers; without energy in any object it is nan, not 0.

    Args:
        maps: (…, H, W), all of one picture.
        object_boxes: (N, 4) xyxy in pixels, all objects of the picture.
        explained: (…,) int64, which of them each map explains.

    Returns:
        (…,) float64, 0..1, lower is better; nan with fewer than two objects or no energy in any.

    Raises:
        ShapeError: shapes do not fit.
        InputError: a value is not finite, a box ends before it begins, or `explained` is none of the objects.
    """
    check_maps(maps)
    boxes = check_boxes(object_boxes, (len(object_boxes),), "object_boxes")
    return _odi(maps, coverage(boxes.to(maps.device), _size(maps)), explained)


def odi_in_masks(maps: Tensor, object_masks: Tensor, explained: Tensor) -> Tensor:
    """Object discrimination index on masks: as `odi`, with (N, H, W) bool.

    Raises:
        ShapeError: shapes do not fit.
        InputError: a map is not finite, a mask not bool, or `explained` is none of the objects.
    """
    check_maps(maps)
    check_masks(object_masks, (len(object_masks), *_size(maps)), "object_masks")
    return _odi(maps, object_masks.to(maps.device).double(), explained)


def _boxes(maps: Tensor, boxes: Tensor) -> Tensor:
    """One checked box for each map, float64, on the maps' device."""
    check_maps(maps)
    return check_boxes(boxes, tuple(maps.shape[:-2])).to(maps.device)


def _masks(maps: Tensor, masks: Tensor) -> Tensor:
    """One checked mask for each map, on the maps' device."""
    check_maps(maps)
    check_masks(masks, tuple(maps.shape))
    return masks.to(maps.device)


def _pointing(maps: Tensor, inside: Tensor) -> Tensor:
    maxima = _maxima(maps)
    hits, all_of_them = ((x.sum(dim=(-2, -1))).double() for x in (maxima & inside, maxima))
    return ratio(hits, all_of_them).where(inside.any(dim=-1).any(dim=-1), torch.nan)


def _energy(maps: Tensor, weights: Tensor) -> Tensor:
    energy = evidence(maps)
    share = ratio((energy * weights).sum(dim=(-2, -1)), energy.sum(dim=(-2, -1)))
    return share.where(weights.sum(dim=(-2, -1)) > 0, torch.nan)


def _odi(maps: Tensor, regions: Tensor, explained: Tensor) -> Tensor:
    """ODI of regions (N, H, W), 0..1."""
    if explained.shape != maps.shape[:-2]:
        raise ShapeError(f"explained must be {tuple(maps.shape[:-2])}, got {tuple(explained.shape)}")
    if bool(((explained < 0) | (explained >= len(regions))).any()):
        raise InputError(f"explained must be 0 to {len(regions) - 1}, got {explained.tolist()}")
    if len(regions) < 2:
        return torch.full(explained.shape, torch.nan, dtype=torch.float64, device=maps.device)
    energy = evidence(maps)
    in_all = (energy * regions.amax(dim=0)).sum(dim=(-2, -1))
    others = [
        torch.cat([regions[:own], regions[own + 1 :]]).amax(dim=0) for own in explained.flatten().tolist()
    ]
    union = torch.stack(others).reshape(energy.shape) if others else energy
    return ratio((energy * union).sum(dim=(-2, -1)), in_all)


def _maxima(maps: Tensor) -> Tensor:
    """Where each map takes its largest value, if that is positive."""
    return (maps == maps.amax(dim=(-2, -1), keepdim=True)) & (maps > 0)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]

"""Random masks of a picture, and the map that the scores under them make: what RISE and D-RISE are built of.

A mask is a function of the picture, not of its pixels: wherever one asks, at the pixels to be hidden or at
the cells of a map, the same mask answers. It is drawn anew from its number whenever it is needed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detcam.cam.inputs import check_feature_maps, check_rows
from detcam.cam.rescoring import Progress, checked_scores, in_batches
from detcam.errors import InputError, ShapeError

POINTS_PER_CELL = 5
"""Of a map, to a side of a mask's cell: 80 × 80, stride 8 of a 640-pixel input. A map interpolated between
them is off by .3 % of its peak (rms; 3 % at most, at the peak of a target the size of a point); what chance
leaves open after 5,000 masks is several times as much."""

_AT_ONCE = 64  # masks on a map's grid; always the same, so that sums do not depend on any batch size


@dataclass(frozen=True)
class RandomMasks:
    """Masks 0 to `count` - 1: which parts of a picture are seen, and which are hidden.

    Petsiuk et al. 2018 (RISE), arXiv:1806.07421, sec. 3.2: a grid of `cells` × `cells` independent zeros and
    ones is drawn, enlarged bilinearly to one cell more than the picture has, and cropped at random.
    Differs from RISE's code: a crop may begin anywhere in the first cell, not at whole pixels only.

    Attributes:
        count: how many, at least 2.
        cells: of the grid, along each side.
        visible: chance of a one: how much is seen on average, between 0 and 1.
        seed: of all masks, 0 or more. Mask i is the same whatever the batch, the device and the count.
    """

    count: int = 5000
    cells: int = 16
    visible: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"count": 2, "cells": 1, "seed": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < bound:
                what = "masks" if name == "count" else name
                raise InputError(f"{what} must be a whole number of at least {bound}, got {value!r}")
        if not 0 < self.visible < 1:
            raise InputError(f"visible must lie between 0 and 1, got {self.visible!r}")

    def at(self, numbers: range, rows: Tensor, columns: Tensor) -> Tensor:
        """How much masks let through at points of the picture.

        Args:
            numbers: of the masks, consecutive.
            rows: (h,) from 0, the picture's upper edge, to 1, its lower one.
            columns: (w,) from 0, its left edge, to 1.

        Returns:
            (k, h, w) float32 in 0..1, on the points' device; beyond an edge as at the edge.
        """
        grids, starts = (drawn.to(rows.device) for drawn in self._drawn(numbers))
        down = self._weights(rows, starts[:, 0])
        across = self._weights(columns, starts[:, 1])
        return down @ grids @ across.mT

    def grid(self, sides: tuple[float, float] = (1.0, 1.0)) -> tuple[int, int]:
        """(h, w) of a map on which nothing is lost, over an area of so many pictures' sides (H, W)."""
        height, width = (max(round(self.cells * POINTS_PER_CELL * side), 1) for side in sides)
        return height, width

    def _drawn(self, numbers: range) -> tuple[Tensor, Tensor]:
        """Grids (k, g, g) of zeros and ones, and where crops begin, (k, 2) in cells, rows first."""
        wanted = self.cells**2 + 2
        blocks = -(-wanted // 4)  # Philox gives four numbers a block, and begins at any block
        stream = np.random.Philox(key=int(self.seed), counter=numbers.start * blocks)
        bits = stream.random_raw(len(numbers) * blocks * 4).reshape(len(numbers), -1)[:, :wanted]
        uniform = (bits >> np.uint64(11)) * 2.0**-53
        grids = (uniform[:, 2:] < self.visible).reshape(-1, self.cells, self.cells)
        return torch.from_numpy(grids).float(), torch.from_numpy(uniform[:, :2]).float()

    def _weights(self, places: Tensor, starts: Tensor) -> Tensor:
        """What each knot of the grid counts for at each place: (n,) and (k,) -> (k, n, g)."""
        enlarged = places.float() * self.cells + starts[:, None]
        knots = enlarged * (self.cells / (self.cells + 1)) - 0.5
        knots = knots.clamp(0, self.cells - 1)[:, :, None]
        return (1 - (knots - torch.arange(self.cells, device=places.device)).abs()).clamp(min=0)


class VisibilityMaps(NamedTuple):
    """Maps (M, h, w) as `visibility_slopes` gives them: of all masks, and of either half of them."""

    maps: Tensor
    first: Tensor
    second: Tensor


def visibility_slopes(sampled_masks: Tensor, sampled_scores: Tensor) -> Tensor:
    """D-RISE: how much higher the score is where a mask lets a cell be seen than where it hides it.

    Petsiuk et al. 2021, arXiv:2006.03204, sums w_i·M_i. Differs from the paper: scores are centred, and the
    sum is divided by the masks' spread at each cell, Σ_i (w_i - mean w)·M_i / Σ_i (M_i - mean M)². That is
    the slope of the straight line fitted to scores against visibility. Uncentred, each cell has the
    masks' own mean in it, which is no evidence; undivided, the edges, where masks vary more, stand out.

    Args:
        sampled_masks: M, how much of each cell a mask lets through, (B, N, h, w).
        sampled_scores: w, (B, N).

    Returns:
        Raw map (B, h, w), float32, signed, in units of w for a cell seen in full rather than not at all. The
        same whatever N, but for chance. 0 where all masks let the same through.

    Raises:
        ShapeError: masks not (B, N, h, w), or scores not (B, N).
    """
    check_feature_maps(sampled_masks=sampled_masks)
    check_rows(sampled_masks, sampled_masks.shape[1:2], sampled_scores=sampled_scores)
    slopes = _Sums.of(sampled_masks, _centred(sampled_scores)).slopes()
    return slopes.view(len(sampled_masks), *sampled_masks.shape[2:])


def visibility_maps(masks: RandomMasks, scores: Tensor, rows: Tensor, columns: Tensor) -> VisibilityMaps:
    """The map of `visibility_slopes` without all the masks ever being in memory, and those of their halves.

    Args:
        masks: what the scores were taken under.
        scores: (M, N) of M boxes under all masks.
        rows: (h,) where the map's cells lie in the picture; see `RandomMasks.at`.
        columns: (w,).

    Raises:
        ShapeError: scores are not (M, N).
    """
    if scores.ndim != 2 or scores.shape[1] != masks.count:
        raise ShapeError(f"scores must be (M, {masks.count}), got {tuple(scores.shape)}")
    centred = _centred(scores)

    def sums(numbers: range) -> _Sums:
        parts = (numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE))
        each = (_Sums.of(masks.at(p, rows, columns)[None], centred[:, p.start : p.stop]) for p in parts)
        return reduce(operator.add, each)

    first, second = sums(range(masks.count // 2)), sums(range(masks.count // 2, masks.count))
    maps = (one.slopes().view(-1, len(rows), len(columns)) for one in (first + second, first, second))
    return VisibilityMaps(*maps)


def scores_under(
    masks: RandomMasks,
    score: Callable[[range], Tensor],
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Tensor:
    """Scores (T, N) of T targets under all masks; where memory runs out, the batch is halved.

    Args:
        masks: how many.
        score: from the numbers of k masks to (T, k).
        batch_size: most masks at a time.
        progress: wraps the iterable of batches.

    Raises:
        CaptureError: memory does not suffice for one picture, or a score is not finite.
    """

    def run(numbers: range) -> Tensor:
        return checked_scores(score(numbers), len(numbers))

    with torch.no_grad():
        return in_batches(masks.count, run, batch_size, progress)


@dataclass(frozen=True, eq=False)
class _Sums:
    """What straight lines through scores and masks are made of, in float64.

    Attributes:
        count: of masks.
        scores: Σ w, (B, 1).
        masks: Σ M, (B, h·w), or (1, h·w) where all boxes share the masks.
        squares: Σ M², likewise.
        products: Σ w·M, (B, h·w).
    """

    count: int
    scores: Tensor
    masks: Tensor
    squares: Tensor
    products: Tensor

    @classmethod
    def of(cls, masks: Tensor, scores: Tensor) -> _Sums:
        """Of masks (B, k, h, w), or (1, k, h, w), and scores (B, k)."""
        drawn, scores = masks.double().flatten(2), scores.double().to(masks.device)
        products = (scores[:, None] @ drawn)[:, 0]
        return cls(
            masks.shape[1], scores.sum(dim=1, keepdim=True), drawn.sum(dim=1), (drawn**2).sum(dim=1), products
        )

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.count + other.count,
            self.scores + other.scores,
            self.masks + other.masks,
            self.squares + other.squares,
            self.products + other.products,
        )

    def slopes(self) -> Tensor:
        """(B, h·w) float32; 0 where masks do not vary beyond rounding."""
        spread = self.squares - self.masks**2 / self.count
        shared = self.products - self.scores * self.masks / self.count
        varies = spread > 1e-9 * self.squares
        return (shared / spread.where(varies, 1.0)).where(varies, 0.0).float()


def _centred(scores: Tensor) -> Tensor:
    """Scores in float64, their mean taken out: sums then lose no digits to it."""
    return scores.double() - scores.double().mean(dim=1, keepdim=True)

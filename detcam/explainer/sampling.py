"""Maps of what is found under random masks: what a detector and a plain callable share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detcam.cam.random_masks import RandomMasks, scores_under, visibility_maps
from detcam.cam.rescoring import Progress
from detcam.explanation import ExplainedLayer, Question, Sampling
from detcam.geometry import Letterbox
from detcam.metrics.matching import Candidates, Wanted, match_d_rise

SIMILARITY = Question("d-rise", "similarity", "similarity", None)
"""What is asked under random masks: how like the detection the likest proposal is, see `match_d_rise`."""

INPUT = "input"
"""The level of its maps."""

LOWEST_SCORE = 0.01
"""Proposals at or below it do not count: in every picture some box fits, however little is meant by it."""

_MOST_PROPOSALS = 1000  # of one picture, the best: what is compared at once stays small


class SampledMaps(NamedTuple):
    """The one layer, its maps (M, h, w), and how they were sampled."""

    layer: ExplainedLayer
    maps: Tensor
    sampling: Sampling


@dataclass(frozen=True, eq=False)
class Sampler:
    """Random masks, and how many pictures at a time are looked at through them."""

    masks: RandomMasks
    batch_size: int = 32
    progress: Progress | None = None

    def maps(
        self, count: int, geometry: Letterbox, score: Callable[[range], Tensor], device: torch.device
    ) -> SampledMaps:
        """The maps of `count` boxes; without boxes, nothing is looked at.

        Args:
            count: M.
            geometry: of the input, which the maps' grid covers. Padding is never masked: the map is 0 there.
            score: numbers of k masks -> (M, k), how much of each box is found under each.
            device: where maps are made.
        """
        sides = [whole / part for whole, part in zip(geometry.input_size, geometry.resized, strict=True)]
        grid = self.masks.grid((sides[0], sides[1]))
        layer = ExplainedLayer(INPUT, None, None, geometry.input_size[0] / grid[0], grid)
        maps, convergence = torch.zeros(0, *grid), ()
        if count:
            scores = scores_under(self.masks, score, self.batch_size, self.progress)
            rows, columns = places(geometry, grid, device)
            found = visibility_maps(self.masks, scores, rows, columns)
            is_seen = _inside(rows)[:, None] & _inside(columns)
            maps = found.maps * is_seen
            convergence = tuple(agreement(found.first[:, is_seen], found.second[:, is_seen]).tolist())
        drawn = self.masks
        return SampledMaps(
            layer, maps, Sampling(drawn.count, drawn.cells, drawn.visible, drawn.seed, convergence)
        )


def places(geometry: Letterbox, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the cells of a grid over the input lie in the picture, 0..1 from edge to edge: (h,) and (w,)."""

    def along(side: int) -> Tensor:
        centres = (torch.arange(grid[side], device=device) + 0.5) * (geometry.input_size[side] / grid[side])
        return (centres - geometry.pad[1 - side]) / geometry.resized[side]

    return along(0), along(1)


def similarities(wanted: Sequence[Wanted], found: Sequence[Candidates]) -> Tensor:
    """(M, k) how much of each of M detections is left in each of k pictures, by `match_d_rise`."""
    together = Candidates(
        _padded([one.boxes for one in found]),
        _padded([one.probabilities for one in found]),
        _padded([one.objectness for one in found if one.objectness is not None])
        if all(one.objectness is not None for one in found)
        else None,
    )
    return torch.stack([match_d_rise(one, together) for one in wanted])


def proposals(
    boxes: Callable[[Tensor], Tensor], probabilities: Tensor, objectness: Tensor | None
) -> Candidates:
    """What counts of what a picture shows: the best, above `LOWEST_SCORE`.

    Args:
        boxes: rows (n,) -> boxes (n, 4).
        probabilities: (N, K), see `Candidates`.
        objectness: (N,) or None.
    """
    scores = probabilities.amax(dim=1) if objectness is None else probabilities.amax(dim=1) * objectness
    best = scores.topk(min(_MOST_PROPOSALS, len(scores))).indices
    rows = best[scores[best] > LOWEST_SCORE]
    return Candidates(boxes(rows), probabilities[rows], None if objectness is None else objectness[rows])


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """How far maps of all masks would agree with those of as many others, from the maps of their two halves.

    The halves' correlation r (Pearson's) over cells, and 2r / (1 + r) for twice as many masks (Spearman 1910,
    Brown 1910). Halves that contradict each other say nothing: 0. Not the correlation of ranks: most
    cells are no evidence, and their order is chance however well the few others are known.

    Args:
        first: (M, n) cells.
        second: (M, n).

    Returns:
        (M,) 0..1, nan where a map is the same everywhere.
    """
    one, other = (half.double() - half.double().mean(dim=1, keepdim=True) for half in (first, second))
    scale = (one**2).sum(dim=1).sqrt() * (other**2).sum(dim=1).sqrt()
    correlation = ((one * other).sum(dim=1) / scale.where(scale > 0, torch.nan)).clamp(0, 1)
    return 2 * correlation / (1 + correlation)


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """(k, n, …) with zeros behind the shorter ones: a box without area, that is like nothing."""
    return pad_sequence(list(tensors), batch_first=True)


def _inside(shares: Tensor) -> Tensor:
    return (shares >= 0) & (shares <= 1)

"""Deletion and insertion: what an explained box's score does as the map's most salient pixels go or come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from detcam.cam.rescoring import Progress, in_batches
from detcam.errors import InputError, ShapeError
from detcam.metrics.inputs import check_boxes, check_maps
from detcam.metrics.presets import Preset

Score = Callable[[Tensor], Tensor]
"""Pictures (k, C, H, W), RGB in 0..1 -> (k,): how much of the explained box is left in each."""

_Direction = Literal["deletion", "insertion"]
_ANY_MAP = -1


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Curves of M maps of one explained box, raw, and the protocol they were taken with.

    Attributes:
        preset: every parameter.
        picture_size: (H, W).
        pixels: how many pixels are changed at each of the S points, from 0.
        deletion_curves: (M, S) float64 scores, as given; nan for a map that is the same everywhere.
        insertion_curves: (M, S), likewise.
        f0: score of the unchanged picture.
        forwards: how many pictures were scored.
    """

    preset: Preset
    picture_size: tuple[int, int]
    pixels: tuple[int, ...]
    deletion_curves: Tensor
    insertion_curves: Tensor
    f0: float
    forwards: int

    @property
    def fractions(self) -> Tensor:
        """Share of the picture's pixels that is changed at each point, (S,) float64."""
        height, width = self.picture_size
        return torch.tensor(self.pixels, dtype=torch.float64) / (height * width)

    @property
    def deletion(self) -> Tensor:
        """See `deletion`."""
        return self._area(self.deletion_curves, is_divided=self.preset.divides_deletion)

    @property
    def insertion(self) -> Tensor:
        """See `insertion`."""
        return self._area(self.insertion_curves, is_divided=self.preset.divides_insertion)

    @property
    def overall(self) -> Tensor:
        """See `overall`."""
        return self.insertion - self.deletion

    def divided(self) -> Faithfulness:
        """The same curves with both areas divided by f(0); nothing is scored again."""
        return replace(self, preset=self.preset.divided())

    def _area(self, curves: Tensor, *, is_divided: bool) -> Tensor:
        area = area_under(curves, self.pixels)
        if not is_divided:
            return area
        return area / self.f0 if self.f0 > 0 else torch.full_like(area, torch.nan)


def deletion(faithfulness: Faithfulness) -> Tensor:
    """Deletion: area under the score as the most salient pixels go first; lower is better.

    Petsiuk et al. 2018 (RISE), arXiv:1806.07421. A trapezoid over the share of pixels changed,
    divided by the share the curve covers: the curve's mean. Divided by f(0) if the preset says so; undivided
    it follows the detection's confidence.

    Returns:
        (M,) float64, in units of the score, or of f(0). nan for a map that is the same everywhere, as it has
        no order, and for all where f(0), to be divided by, is not above 0.
    """
    return faithfulness.deletion


def insertion(faithfulness: Faithfulness) -> Tensor:
    """Insertion: area under the score as the most salient pixels come first; higher is better.

    As `deletion`, from the preset's baseline to the picture.
    """
    return faithfulness.insertion


def overall(faithfulness: Faithfulness) -> Tensor:
    """Overall: insertion - deletion, higher is better; around 0 is a map that says nothing.

    Differs where a preset divides only one of the two by f(0), as ODAM does: then its units are mixed, and
    `Faithfulness.divided` mends it.
    """
    return faithfulness.overall


def faithfulness(
    picture: Tensor,
    maps: Tensor,
    score: Score,
    preset: Preset,
    *,
    box: Sequence[float] | Tensor | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Faithfulness:
    """Deletion and insertion curves of several maps of one explained box.

    Petsiuk et al. 2018 (RISE), arXiv:1806.07421, for detectors as the preset's source has it. Pixels are
    ordered by the map's raw value, signs kept: only the order matters, so negative evidence goes last. Every
    point is scored, the first ones included. The unchanged picture and the two baselines are scored once for
    all maps. Only one batch of pictures is in memory, and each map's order.
    Differs from the papers' code: a last step of fewer pixels counts for as many as it has.

    Args:
        picture: (C, H, W), floating point, RGB in 0..1.
        maps: (M, H, W) raw, on the picture: one for each method to be compared.
        score: pictures (k, C, H, W) -> (k,) of the explained box, no graph needed; see `matching`.
        preset: the protocol.
        box: the explained box, xyxy in pixels; needed where the preset's steps are parts of it.
        batch_size: most pictures at a time.
        progress: wraps the iterable of batches.

    Raises:
        ShapeError: shapes do not fit, or `score` gives another shape.
        InputError: a value or score is not finite, or a box is needed.
        CaptureError: memory does not suffice for one picture.
    """
    _check(picture, maps)
    height, width = picture.shape[1:]
    pixels = preset.step.pixels((height, width), _corners(box))
    is_defined = maps.amax(dim=(1, 2)) > maps.amin(dim=(1, 2))
    numbers = _numbered(is_defined.nonzero().flatten().tolist(), pixels, height * width)
    jobs = list(numbers)
    ranks = pixel_ranks(maps, ties=preset.ties, seed=preset.seed)
    pictures = _Pictures(picture, preset.deletion_to.of(picture), preset.insertion_from.of(picture), ranks)

    def run(batch: range) -> Tensor:
        return _scored(score, torch.stack([pictures.changed(*jobs[number]) for number in batch]))

    with torch.no_grad():
        scores = in_batches(len(jobs), run, batch_size, progress)

    def curves(direction: _Direction) -> Tensor:
        found = torch.full((len(maps), len(pixels)), torch.nan, dtype=torch.float64)
        for row in is_defined.nonzero().flatten().tolist():
            found[row] = scores[[numbers[_key(direction, row, count, height * width)] for count in pixels]]
        return found

    return Faithfulness(
        preset=preset,
        picture_size=(height, width),
        pixels=tuple(pixels),
        deletion_curves=curves("deletion"),
        insertion_curves=curves("insertion"),
        f0=float(scores[0]),
        forwards=len(jobs),
    )


def pixel_ranks(maps: Tensor, *, ties: Literal["first", "shuffled"] = "first", seed: int = 0) -> Tensor:
    """The place of every pixel when the most salient goes first: (M, H, W) -> (M, H, W) int32 from 0.

    Args:
        maps: raw; only their order matters.
        ties: of equal values, "first" the first row by row, "shuffled" in an order drawn from `seed`, the
            same for all maps and on all devices.
        seed: of that order.
    """
    count = maps.shape[1] * maps.shape[2]
    start = torch.arange(count)
    if ties == "shuffled":
        start = torch.randperm(count, generator=torch.Generator("cpu").manual_seed(seed))
    start = start.to(maps.device)
    places = torch.arange(count, dtype=torch.int32, device=maps.device)
    ranks = torch.empty((len(maps), count), dtype=torch.int32, device=maps.device)
    for row, values in zip(ranks, maps.flatten(1), strict=True):
        row[start[values[start].argsort(descending=True, stable=True)]] = places
    return ranks.view(maps.shape)


def area_under(curves: Tensor, positions: Sequence[float]) -> Tensor:
    """Trapezoid under curves (…, S) at ascending positions, over the length they span: the curves' mean."""
    x = torch.tensor(positions, dtype=torch.float64)
    return torch.trapezoid(curves.double(), x, dim=-1) / (x[-1] - x[0])


@dataclass(frozen=True, eq=False)
class _Pictures:
    """A picture (C, H, W) in every stage of being taken away or put back.

    Attributes:
        picture: unchanged.
        deleted: all its pixels gone.
        empty: none of its pixels there yet.
        ranks: (M, H, W), the order in which they go or come.
    """

    picture: Tensor
    deleted: Tensor
    empty: Tensor
    ranks: Tensor

    def changed(self, direction: _Direction, row: int, count: int) -> Tensor:
        """The picture after `count` pixels of map `row`, which is any at the ends."""
        start, end = (self.picture, self.deleted) if direction == "deletion" else (self.empty, self.picture)
        if row == _ANY_MAP:
            return end if count else start
        return torch.where(self.ranks[row].to(start.device) < count, end, start)


def _numbered(
    rows: Sequence[int], pixels: Sequence[int], total: int
) -> dict[tuple[_Direction, int, int], int]:
    """What is to be scored, each once, with its number; the unchanged picture is number 0."""
    jobs: dict[tuple[_Direction, int, int], int] = {("deletion", _ANY_MAP, 0): 0}
    directions: tuple[_Direction, ...] = ("deletion", "insertion")
    for row in rows:
        for direction in directions:
            for count in pixels:
                jobs.setdefault(_key(direction, row, count, total), len(jobs))
    return jobs


def _key(direction: _Direction, row: int, count: int, total: int) -> tuple[_Direction, int, int]:
    """What is scored for one point: where no pixel or every one is changed, maps share it."""
    if direction == "insertion" and count == total:
        return "deletion", _ANY_MAP, 0
    return (direction, _ANY_MAP, count) if count in (0, total) else (direction, row, count)


def _scored(score: Score, pictures: Tensor) -> Tensor:
    scores = score(pictures)
    if scores.shape != (len(pictures),):
        raise ShapeError(
            f"scores of {len(pictures)} pictures must be ({len(pictures)},), got {tuple(scores.shape)}"
        )
    if not bool(scores.isfinite().all()):
        raise InputError("the score of a changed picture is not finite: choose another score")
    return scores.detach().cpu().double()


def _check(picture: Tensor, maps: Tensor) -> None:
    if picture.ndim != 3 or not picture.is_floating_point():
        raise ShapeError(
            f"picture must be (C, H, W) and floating point, got {tuple(picture.shape)} {picture.dtype}"
        )
    if maps.ndim != 3 or maps.shape[1:] != picture.shape[1:]:
        raise ShapeError(
            f"maps must be (M, {picture.shape[1]}, {picture.shape[2]}), the picture's size, "
            f"got {tuple(maps.shape)}: `Letterbox.maps_to_image` brings them there"
        )
    check_maps(maps)


def _corners(box: Sequence[float] | Tensor | None) -> tuple[float, float, float, float] | None:
    if box is None:
        return None
    x1, y1, x2, y2 = check_boxes(torch.as_tensor(box), (), "box").tolist()
    return x1, y1, x2, y2

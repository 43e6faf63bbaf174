"""Maps of every box by methods that use gradients, in as few backward passes as tell them apart.

The simple way is one backward pass a box, and that is what `Queue` gives where boxes cannot share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detcam.cam.capture import Capture
from detcam.cam.methods import Method
from detcam.cam.sparse_backward import Block
from detcam.cam.tokens import Unfold
from detcam.explainer.plan import Plan, Subject
from detcam.explainer.sharing import Group, Queue, Seat


@dataclass(frozen=True)
class _Pass:
    """One backward pass at one layer.

    Attributes:
        layer: captured name.
        activations: (B, C, h, w).
        gradients: likewise, of the sum of what is explained in this pass.
        peaks: (B, h, w) the largest absolute gradient of each cell, on the CPU.
    """

    layer: str
    activations: Tensor
    gradients: Tensor
    peaks: Tensor

    def touched(self, picture: int) -> np.ndarray:
        """(h, w) bool, where the gradient of a picture is not zero."""
        return self.peaks[picture].ne(0).numpy()


@dataclass(frozen=True)
class _Share:
    """A box's part of a pass: its picture, its number there, and its cells."""

    picture: int
    subject: Subject
    box: int
    window: Block


def explain_by_gradients(
    plan: Plan,
    caught: Capture,
    layouts: Mapping[str, Unfold],
    maps: Mapping[str, Tensor],
    subjects: Sequence[Subject],
) -> None:
    """Fill in the maps of all boxes of all pictures of a batch; pictures do not mix, so each pass serves all.

    Args:
        plan: what is asked.
        caught: the graph.
        layouts: captured name -> how what it gives becomes feature maps.
        maps: captured name -> (B, C, h, w) activations.
        subjects: the B pictures.

    Raises:
        NoGradientError: what is explained in one pass depends on none of the layers.
    """
    grids = {name: (one.shape[2], one.shape[3]) for name, one in maps.items()}
    queues = [Queue(_seats(subject), grids, plan.reach, subject.raw.located is None) for subject in subjects]
    for groups in _rounds(queues):
        passes = _passes(caught, layouts, maps, subjects, groups)
        told_apart = [
            (picture, group)
            for picture, (queue, group) in enumerate(zip(queues, groups, strict=True))
            if group and queue.settle(group, {one.layer: one.touched(picture) for one in passes})
        ]
        for one in passes:
            shares = [
                _Share(picture, subjects[picture], box, windows[one.layer])
                for picture, group in told_apart
                for box, windows in group.windows.items()
            ]
            if shares:
                (_draw_by_cell if plan.method.is_by_cell else _draw)(plan.method, one, shares)
            for share in shares:
                share.subject.reach[one.layer][share.box] = _peak(one, share)


def _rounds(queues: Sequence[Queue]) -> Iterator[list[Group]]:
    """A group of each picture, until none has any left."""
    while any(groups := [queue.next() for queue in queues]):
        yield groups


def _passes(
    caught: Capture,
    layouts: Mapping[str, Unfold],
    maps: Mapping[str, Tensor],
    subjects: Sequence[Subject],
    groups: Sequence[Group],
) -> list[_Pass]:
    """What the backward pass of all groups gives at each layer."""
    targets = [
        subject.targets[seat.box](subject.raw)
        for subject, group in zip(subjects, groups, strict=True)
        for seat in group.seats
    ]
    found = caught.gradients(torch.stack(targets).sum())
    passes = []
    for name, activations in maps.items():
        gradient = found[name]
        gradient = torch.zeros_like(activations) if gradient is None else layouts[name](gradient)
        passes.append(_Pass(name, activations, gradient, gradient.abs().amax(dim=1).cpu()))
    return passes


def _draw(method: Method, one: _Pass, shares: Sequence[_Share]) -> None:
    """Maps of any formula: each box's gradient is cut out first."""
    apart = one.gradients.new_zeros(len(shares), *one.gradients.shape[1:])
    for gradient, share in zip(apart, shares, strict=True):
        rows, columns = share.window
        gradient[:, rows, columns] = one.gradients[share.picture, :, rows, columns]
    grid = one.activations.shape[2], one.activations.shape[3]
    placements = [share.subject.placement(share.box, grid) for share in shares]
    available = {need: torch.cat([place[need] for place in placements]) for need in placements[0]}
    available |= {"activations": one.activations[[share.picture for share in shares]], "gradients": apart}
    found = method.compute(**{need: available[need] for need in method.needs})
    for box_map, share in zip(found, shares, strict=True):
        share.subject.maps[one.layer][share.box] = box_map


def _draw_by_cell(method: Method, one: _Pass, shares: Sequence[_Share]) -> None:
    """Maps of formulas that work cell by cell: one map, of which each box has its window."""
    touched = one.peaks.ne(0).any(dim=0)
    rows, columns = _extent(touched.any(dim=1)), _extent(touched.any(dim=0))
    whole = one.activations.new_zeros(len(one.activations), *touched.shape)
    whole[:, rows, columns] = method.compute(
        activations=one.activations[:, :, rows, columns], gradients=one.gradients[:, :, rows, columns]
    )
    for share in shares:
        share.subject.maps[one.layer][share.box][share.window] = whole[share.picture][share.window]


def _peak(one: _Pass, share: _Share) -> Tensor:
    """The largest absolute gradient in a box's cells; 0 where it has none."""
    cells = one.peaks[share.picture][share.window]
    return cells.amax() if cells.numel() else cells.new_zeros(())


def _extent(touched: Tensor) -> slice:
    """From the first True of (n,) to the last; at least one cell, for formulas that take no empty maps."""
    places = touched.nonzero().flatten()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 1)


def _seats(subject: Subject) -> list[Seat]:
    """Where the boxes' predictions sit."""
    height, width = subject.input.geometry.input_size
    centres = (subject.cells[:, :2] + subject.cells[:, 2:]) / 2
    levels = [subject.raw.locate(candidate).level.name for candidate in subject.chosen.candidates.tolist()]
    return [
        Seat(box, level, x / width, y / height)
        for box, (level, (x, y)) in enumerate(zip(levels, centres.tolist(), strict=True))
    ]

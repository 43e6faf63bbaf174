"""Which boxes of a picture share a backward pass, so that their gradients can be told apart afterwards.

A prediction's gradient at a layer is zero outside a window around the cell that decided. The gradient of a
sum over predictions whose windows lie apart is, inside each window, that prediction's own, exactly: sparse
Jacobians are found the same way (Curtis, Powell and Reid 1974, doi:10.1093/imamat/13.1.117). How wide windows
are is learnt from boxes that were alone in their pass. Windows are kept a cell apart: a gradient that reaches
further than any seen before shows there, and its boxes are explained again, each alone. Where windows fill
the layer, as behind attention, every box is alone from the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detcam.cam.sparse_backward import Block

Touched = Mapping[str, np.ndarray]
"""Layer name -> (h, w) bool, where a gradient is not zero."""

_EVERYWHERE = slice(None), slice(None)


@dataclass(frozen=True)
class Seat:
    """Where the prediction of a box sits.

    Attributes:
        box: its number in the picture.
        level: of the head.
        x: centre of the deciding cell, as a share of the input's width.
        y: likewise, of its height.
    """

    box: int
    level: str
    x: float
    y: float


@dataclass(eq=False)
class Reach:
    """How far from the deciding cell's centre gradients were seen to reach.

    Attributes:
        radii: (level of the head, layer) -> rows and columns, in cells of the layer; inf for all.
    """

    radii: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def learn(self, seat: Seat, touched: Touched) -> bool:
        """Widen what is known by the gradient of one box that was alone; whether it was wider."""
        before = dict(self.radii)
        for layer, cells in touched.items():
            known = self.radii.get((seat.level, layer), (0.0, 0.0))
            centre = seat.y * cells.shape[0], seat.x * cells.shape[1]
            # The wider side: the other one may have been cut off by the picture's edge; if both were, nothing
            # is known.
            seen = [_farthest(np.any(cells, axis=1 - axis), centre[axis]) for axis in (0, 1)]
            self.radii[seat.level, layer] = max(known[0], seen[0]), max(known[1], seen[1])
        return self.radii != before

    def windows(self, seat: Seat, grids: Mapping[str, tuple[int, int]]) -> dict[str, Block]:
        """Layer name -> the window of a box; empty where no box of its level has been seen."""
        found = {}
        for layer, (height, width) in grids.items():
            radius = self.radii.get((seat.level, layer))
            if radius is None:
                return {}
            rows = _stretch(seat.y * height, radius[0], height)
            found[layer] = rows, _stretch(seat.x * width, radius[1], width)
        return found


@dataclass(frozen=True)
class Group:
    """Boxes of one picture in one backward pass; none where a picture has none left.

    Attributes:
        seats: where they sit.
        windows: box -> layer name -> its cells there.
    """

    seats: tuple[Seat, ...]
    windows: Mapping[int, Mapping[str, Block]]

    def __len__(self) -> int:
        return len(self.seats)


@dataclass(eq=False)
class Queue:
    """Boxes of one picture that wait for a backward pass.

    Attributes:
        waiting: in the order in which they are wanted.
        grids: layer name -> (h, w).
        reach: of gradients, shared by all pictures of a question.
        may_share: false for predictions that sit in no grid, whose windows are of any size.
    """

    waiting: list[Seat]
    grids: Mapping[str, tuple[int, int]]
    reach: Reach
    may_share: bool = True
    _alone: list[Seat] = field(default_factory=list)
    _windows: dict[Seat, dict[str, Block]] = field(default_factory=dict)

    def next(self) -> Group:
        """The boxes of the next pass."""
        if self._alone:
            return self._single(self._alone)
        if not self.may_share or not self.waiting:
            return self._single(self.waiting)
        group = self._group()
        if len(group) < 2:  # alone it teaches something
            return self._single(self.waiting)
        self.waiting = [seat for seat in self.waiting if seat.box not in group.windows]
        return group

    def settle(self, group: Group, touched: Touched) -> bool:
        """Whether a pass's gradients can be told apart; if not, its boxes come again, each alone."""
        if len(group) == 1:
            if self.reach.learn(group.seats[0], touched):
                self._windows.clear()
            return True
        for layer, cells in touched.items():
            outside = cells.copy()
            for windows in group.windows.values():
                outside[windows[layer]] = False
            if outside.any():
                self._alone = list(group.seats)
                return False
        return True

    def _single(self, seats: list[Seat]) -> Group:
        chosen = (seats.pop(0),) if seats else ()
        return Group(chosen, {seat.box: dict.fromkeys(self.grids, _EVERYWHERE) for seat in chosen})

    def _group(self) -> Group:
        """As many as fit beside each other, the first one first."""
        taken = {layer: np.zeros(grid, bool) for layer, grid in self.grids.items()}
        chosen: dict[Seat, dict[str, Block]] = {}
        for seat in self.waiting:
            if seat not in self._windows:
                self._windows[seat] = self.reach.windows(seat, self.grids)
            windows = self._windows[seat]
            if not windows or any(taken[layer][window].any() for layer, window in windows.items()):
                continue
            chosen[seat] = windows
            for layer, window in windows.items():
                taken[layer][_with_border(window)] = True
        return Group(tuple(chosen), {seat.box: windows for seat, windows in chosen.items()})


def _farthest(touched: Any, centre: float) -> float:
    """From a centre to the far end of the cells that are True, in cells; 0 without any, inf for all."""
    places = np.flatnonzero(touched)
    if not len(places):
        return 0.0
    if touched[0] and touched[-1]:
        return math.inf
    return float(max(centre - places[0], places[-1] + 1 - centre))


def _stretch(centre: float, radius: float, side: int) -> slice:
    """The cells within a radius; none for a radius of 0."""
    if not radius:
        return slice(0, 0)
    if math.isinf(radius):
        return slice(0, side)
    # Rounded inwards by a hair, so that noise in the centre does not add a cell.
    first, last = math.floor(centre - radius + 1e-4), math.ceil(centre + radius - 1e-4)
    return slice(max(first, 0), max(min(last, side), 0))


def _with_border(window: Block) -> Block:
    """A window and the cells around it; an empty one stays empty."""
    rows, columns = (
        slice(max(one.start - 1, 0), one.stop + 1) if one.stop > one.start else one for one in window
    )
    return rows, columns

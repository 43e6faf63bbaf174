"""Tensors of a detection head read by their shapes: every reading there is.

One tensor often has several readings: a map of 255 channels is three anchors of 80 classes as well as five of
46. `readings` lists them all; `detcam.adapters.class_count` chooses, or refuses to, and
`detcam.adapters.head_rows` makes rows of candidates of the one that was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations, pairwise, product
from typing import Literal, NamedTuple

from detcam.errors import InputError, ShapeError, UnknownNameError
from detcam.structures import RowOrder

Shape = tuple[int, ...]
Arrangement = Literal["grids", "maps", "rows", "columns", "end-to-end"]
LevelsOrder = Literal["fine to coarse", "coarse to fine"]

BINS = (16, 17, 8, 32)
"""Values of a distribution over one edge's distance, in the detectors there are; others must be said."""

MOST_ANCHORS = 9
"""Anchors per cell that are considered; RetinaNet has the most."""

_STRIDES = (4, 8, 16, 32, 64, 128)  # with any of them left out
_MOST_WINNERS = 1000  # boxes that an end-to-end head shows; DETR's relatives go up to 900


@dataclass(frozen=True)
class Form:
    """What a named layout fixes; the rest is read from the shapes.

    Attributes:
        arrangement: "grids" (B, A, h, w, V), "maps" (B, A·V, h, w), "rows" (B, N, V), "columns" (B, V, N),
            with V values per candidate; "end-to-end" (B, M, 6): box, score, class.
        has_anchors: several anchors per cell.
        has_objectness: an objectness between box and classes.
        has_bins: box edges are distributions of `reg_max` bins each.
        extra: values behind the classes.
        row_order: order of the candidates inside a level.
    """

    arrangement: Arrangement
    has_anchors: bool = False
    has_objectness: bool = False
    has_bins: bool = False
    extra: int = 0
    row_order: RowOrder = "yxa"


# The better known first: in this order an error lists them.
LAYOUTS: dict[str, Form] = {
    "anchor-grids": Form("grids", has_anchors=True, has_objectness=True, row_order="ayx"),
    "anchor-maps": Form("maps", has_anchors=True, has_objectness=True, row_order="ayx"),
    "anchor-rows": Form("rows", has_anchors=True, has_objectness=True, row_order="ayx"),
    "dfl-maps": Form("maps", has_bins=True),
    "dfl-rows": Form("rows", has_bins=True),
    "dfl-columns": Form("columns", has_bins=True),
    "box-maps": Form("maps"),
    "box-rows": Form("rows"),
    "box-columns": Form("columns"),
    "objectness-maps": Form("maps", has_objectness=True),
    "objectness-rows": Form("rows", has_objectness=True),
    "objectness-columns": Form("columns", has_objectness=True),
    "end-to-end": Form("end-to-end"),
    "seg-anchor-grids": Form("grids", has_anchors=True, has_objectness=True, extra=32, row_order="ayx"),
    "seg-anchor-maps": Form("maps", has_anchors=True, has_objectness=True, extra=32, row_order="ayx"),
    "seg-anchor-rows": Form("rows", has_anchors=True, has_objectness=True, extra=32, row_order="ayx"),
    "obb-rows": Form("rows", extra=1),
    "obb-columns": Form("columns", extra=1),
    "seg-rows": Form("rows", extra=32),
    "seg-columns": Form("columns", extra=32),
    "pose-rows": Form("rows", extra=51),
    "pose-columns": Form("columns", extra=51),
    "anchor-columns": Form("columns", has_anchors=True, has_objectness=True, row_order="ayx"),
    "box-anchor-grids": Form("grids", has_anchors=True, row_order="ayx"),
    "box-anchor-maps": Form("maps", has_anchors=True, row_order="ayx"),
    "box-anchor-rows": Form("rows", has_anchors=True),
    "box-anchor-columns": Form("columns", has_anchors=True),
    "anchor-rows-yxa": Form("rows", has_anchors=True, has_objectness=True),
}
"""Layouts by name. Behind the classes, obb has an angle, seg 32 mask coefficients, pose 17 keypoints."""

# Anchors per cell that are taken to come with an objectness unless a layout without one is asked for. Three:
# all YOLOs that have three. In rows and columns four and five as well: four at strides 16, 32 and 64 are as
# many candidates as one at 8, 16 and 32, and five at 16 as many as one at 8 and 16.
SURE_OF_OBJECTNESS: dict[Arrangement, tuple[int, ...]] = {
    "grids": (3,),
    "maps": (3,),
    "rows": (3, 4, 5),
    "columns": (3, 4, 5),
    "end-to-end": (),
}

# No shape tells these from others: they are taken only when they are asked for.
_ONLY_BY_NAME = frozenset({"anchor-rows-yxa"})


@dataclass(frozen=True)
class Layout:
    """One reading of a head's tensors.

    Attributes:
        name: key of `LAYOUTS`.
        num_classes: K; None for end-to-end tensors, which do not show it.
        strides: network-input pixels per cell of the levels, in the tensors' order; () for end-to-end.
        levels_order: of `strides`; None if one tensor holds all levels and nobody said in which order.
        anchors: candidates per cell.
        reg_max: bins per box edge, 1 if the values are no distributions.
    """

    name: str
    num_classes: int | None
    strides: tuple[int, ...]
    levels_order: LevelsOrder | None
    anchors: int = 1
    reg_max: int = 1

    @property
    def form(self) -> Form:
        """What the name fixes."""
        return LAYOUTS[self.name]

    @property
    def has_objectness(self) -> bool:
        """Whether an objectness stands between box and classes."""
        return self.form.has_objectness

    @property
    def row_order(self) -> RowOrder:
        """Order of the candidates inside a level."""
        return self.form.row_order

    @property
    def extra(self) -> int:
        """Values of a candidate behind its classes."""
        return self.form.extra

    def __str__(self) -> str:
        details = [self.name]
        details += [f"{self.anchors} anchors"] if self.anchors > 1 else []
        details += [f"{self.reg_max} bins"] if self.reg_max > 1 else []
        count = "a count it does not show" if self.num_classes is None else _classes(self.num_classes)
        return f"{count} ({', '.join(details)})"


@dataclass(frozen=True)
class HeadFacts:
    """What is known of a head.

    Attributes:
        input_size: (H, W) of the network's input that gave the tensors.
        shapes: of the tensors, one per level or one for all.
        strides: of the levels, in the tensors' order.
        anchors: per cell.
        reg_max: bins per box edge.
        layout: key of `LAYOUTS`.
        convolutions: output channels of each level's last convolutions, in any order.
        num_names: class names that were given.
        num_classes: that was given.
    """

    input_size: tuple[int, int] = (0, 0)
    shapes: tuple[Shape, ...] = ()
    strides: tuple[int, ...] | None = None
    anchors: int | None = None
    reg_max: int | None = None
    layout: str | None = None
    convolutions: tuple[tuple[int, ...], ...] | None = None
    num_names: int | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise UnknownNameError("layout", self.layout, LAYOUTS, "All are listed in docs/adapters.md")
        for name in ("anchors", "reg_max"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(f"{name} is a count of at least 1, got {count}")
        if self.strides is not None and min(self.strides, default=0) < 1:
            raise InputError(f"strides must be pixels per cell, 8, 16 or 32 say, got {self.strides}")


def readings(facts: HeadFacts) -> list[Layout]:
    """Every way of reading the tensors that their shapes allow; class counts that were given are not used.

    Args:
        facts: shapes and input size; strides, anchors, bins and layout narrow the list down.

    Returns:
        The readings, better known layouts first; empty if there is none.

    Raises:
        ShapeError: no tensors, or tensors that do not belong together.
    """
    _check_alike(facts)
    if facts.layout is not None:
        asked = {facts.layout: LAYOUTS[facts.layout]}
    else:
        asked = {name: form for name, form in LAYOUTS.items() if name not in _ONLY_BY_NAME}
    found = [layout for name, form in asked.items() for layout in _read(name, form, facts)]
    return sorted(found, key=_is_rare)


class _Frame(NamedTuple):
    """How often a tensor repeats its values, and where."""

    anchors: int
    values: int
    strides: tuple[int, ...]
    order: LevelsOrder | None


def _read(name: str, form: Form, facts: HeadFacts) -> Iterator[Layout]:
    if form.arrangement == "end-to-end":
        yield from _end_to_end(name, facts)
        return
    for anchors, values, strides, order in _FRAMES[form.arrangement](facts):
        # Five-dimensional tensors show their anchors, be it one; otherwise one anchor is a layout of its own.
        if form.arrangement != "grids" and (anchors > 1) != form.has_anchors:
            continue
        if facts.anchors not in (None, anchors):
            continue
        is_doubtful = form.has_anchors and not form.has_objectness and facts.layout is None
        if is_doubtful and anchors in SURE_OF_OBJECTNESS[form.arrangement]:
            continue
        for bins in _bins(form, facts.reg_max):
            classes = values - 4 * bins - form.has_objectness - form.extra
            if classes >= 1:
                yield Layout(name, classes, strides, order, anchors, bins)


def _is_rare(layout: Layout) -> bool:
    return layout.anchors not in (1, 3) or layout.reg_max not in (1, 16, 17) or layout.extra > 0


def _bins(form: Form, told: int | None) -> tuple[int, ...]:
    if told is not None:
        return (told,) if (told > 1) == form.has_bins else ()
    return BINS if form.has_bins else (1,)


def _end_to_end(name: str, facts: HeadFacts) -> Iterator[Layout]:
    """Box, score and class of the winners, then what segmentation, pose and rotated heads add."""
    shape = facts.shapes[0]
    is_alone = len(facts.shapes) == 1 and len(shape) == 3 and shape[1] <= _MOST_WINNERS
    if is_alone and shape[2] - 6 in (0, 1, 32, 51) and facts.anchors is None:
        yield Layout(name, None, (), None)


def _grid_frames(facts: HeadFacts) -> Iterator[_Frame]:
    shapes = facts.shapes
    if len(shapes[0]) == 5 and len({(shape[1], shape[4]) for shape in shapes}) == 1:
        for strides, order in _strides_of_grids([shape[2:4] for shape in shapes], facts):
            yield _Frame(shapes[0][1], shapes[0][4], strides, order)


def _map_frames(facts: HeadFacts) -> Iterator[_Frame]:
    shapes = facts.shapes
    if len(shapes[0]) == 4 and len({shape[1] for shape in shapes}) == 1:
        channels = shapes[0][1]
        for strides, order in _strides_of_grids([shape[2:4] for shape in shapes], facts):
            for anchors in _counts(facts.anchors):
                if channels % anchors == 0:
                    yield _Frame(anchors, channels // anchors, strides, order)


def _row_frames(facts: HeadFacts, rows: int = 1, values: int = 2) -> Iterator[_Frame]:
    shapes = facts.shapes
    if len(shapes[0]) == 3 and len({shape[values] for shape in shapes}) == 1:
        for anchors in _counts(facts.anchors):
            for strides, order in _strides_of_rows([shape[rows] for shape in shapes], anchors, facts):
                yield _Frame(anchors, shapes[0][values], strides, order)


def _column_frames(facts: HeadFacts) -> Iterator[_Frame]:
    return _row_frames(facts, rows=2, values=1)


_FRAMES = {"grids": _grid_frames, "maps": _map_frames, "rows": _row_frames, "columns": _column_frames}


def _counts(anchors: int | None) -> Sequence[int]:
    return range(1, MOST_ANCHORS + 1) if anchors is None else (anchors,)


def _strides_of_grids(
    grids: Sequence[Shape], facts: HeadFacts
) -> Iterator[tuple[tuple[int, ...], LevelsOrder]]:
    height, width = facts.input_size
    whole, rounded = [], []
    for rows, columns in grids:
        exact = height // max(rows, 1)
        whole.append([exact] if rows * exact == height and columns * exact == width else [])
        tried = facts.strides or _STRIDES
        rounded.append([s for s in tried if grid_of(facts.input_size, s) == (rows, columns)])
    # Strides that divide the input come before those that leave a cut cell.
    found = [] if facts.strides else list(_in_order(whole, facts))
    yield from found or _in_order(rounded, facts)


def _strides_of_rows(
    counts: Sequence[int], anchors: int, facts: HeadFacts
) -> Iterator[tuple[tuple[int, ...], LevelsOrder | None]]:
    told = facts.strides
    if len(counts) > 1 or (told and len(told) == 1):
        tried = _STRIDES if told is None else told
        possible = [
            [s for s in tried if anchors * _cells(facts.input_size, (s,)) == count] for count in counts
        ]
        yield from _in_order(possible, facts)
        return
    for chosen in _choices() if told is None else (told,):
        if anchors * _cells(facts.input_size, chosen) == counts[0]:
            known = told is not None or len(chosen) == 1
            yield chosen, _order(chosen) if known else None


def _in_order(
    possible: Sequence[Sequence[int]], facts: HeadFacts
) -> Iterator[tuple[tuple[int, ...], LevelsOrder]]:
    """One stride for each level such that they rise or fall; all those that were told, if they were.

    In the order in which they were told, if that fits: levels of one cell each fit in either.
    """
    found = [(strides, order) for strides in product(*possible) if (order := _order(strides)) is not None]
    if facts.strides is not None:
        found = [one for one in found if sorted(one[0]) == sorted(facts.strides)]
        found = [one for one in found if one[0] == facts.strides] or found
    yield from found


def _order(strides: Sequence[int]) -> LevelsOrder | None:
    pairs = list(pairwise(strides))
    if all(first < second for first, second in pairs):
        return "fine to coarse"
    return "coarse to fine" if all(first > second for first, second in pairs) else None


@cache
def _choices() -> tuple[tuple[int, ...], ...]:
    """Every choice of strides that a head's levels may have, finest first.

    All of them, also rare ones: left out, the truth could not contradict a false reading.
    """
    sizes = range(1, len(_STRIDES) + 1)
    return tuple(chosen for size in sizes for chosen in combinations(_STRIDES, size))


def grid_of(input_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(h, w) cells of an input (H, W) at a stride; a last, cut cell counts."""
    return math.ceil(input_size[0] / stride), math.ceil(input_size[1] / stride)


@lru_cache(maxsize=1024)
def _cells(input_size: tuple[int, int], strides: tuple[int, ...]) -> int:
    return sum(math.prod(grid_of(input_size, stride)) for stride in strides)


def _check_alike(facts: HeadFacts) -> None:
    shapes = facts.shapes
    if min(facts.input_size) < 1:
        raise ShapeError(f"an input of {facts.input_size} pixels gives no tensors: say the input's (H, W)")
    if not shapes:
        raise ShapeError("the head gave no tensors: name the modules whose outputs they are")
    if len({(len(shape), shape[:1]) for shape in shapes}) > 1 or not 3 <= len(shapes[0]) <= 5:
        raise ShapeError(
            f"tensors {shapes_text(shapes)} are no levels of one head: give one tensor of 3 dimensions, or "
            "one of 3 to 5 dimensions per level"
        )


def shapes_text(shapes: Sequence[Shape]) -> str:
    """Shapes as people write them: [1, 255, 20, 20], [1, 255, 40, 40]."""
    return ", ".join(str(list(shape)) for shape in shapes)


def _classes(count: int) -> str:
    return f"{count} class{'es' * (count != 1)}"

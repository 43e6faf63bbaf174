"""A head that is known by its tensors: where they come out, which layout they have, how boxes are decoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detcam.adapters.base import device_of
from detcam.adapters.class_count import infer
from detcam.adapters.decoding import (
    boxes_around,
    expected_distances,
    exponential_anchor_boxes,
    squared_anchor_boxes,
)
from detcam.adapters.head_rows import HeadRows, split
from detcam.adapters.heads import GenericOptions, HeadOutput
from detcam.adapters.layouts import HeadFacts, Layout
from detcam.cam.capture import borrowed, observe
from detcam.errors import CaptureError, InputError, UnknownNameError
from detcam.structures import Level, RowOrder

Anchors = tuple[tuple[float, float], ...]
Read = Callable[[Tensor], list[Tensor]]
"""A batch (B, 3, H, W) -> the head's tensors."""

_CERTAIN = 1e-6  # a probability nearer to 0 or 1 than this is taken as this: its logit would be infinite


@dataclass(frozen=True, eq=False)
class TensorOptions:
    """What may be said about a head's tensors.

    Attributes:
        layout: key of `LAYOUTS`; None if class count and shapes leave one reading.
        decode: how box values become boxes: "ltrb" and "dfl" distances from the cell's centre, in cells;
            "v3" and "v5" anchors; "xyxy" and "cxcywh" in input pixels; "xyxyn" and "cxcywhn" in 0..1 of the
            input's sides. None for "dfl" if the layout says so.
        values: whether objectness and classes are "logits" or "probabilities"; None for logits, refused if
            all of them lie in 0..1.
        strides: of the levels, in the tensors' order.
        anchors: (w, h) in input pixels, level by level in the tensors' order.
        reg_max: bins per box edge.
        convolutions: dotted names of each level's last convolutions, whose channels say the class count.
    """

    layout: str | None = None
    decode: str | None = None
    values: Literal["logits", "probabilities"] | None = None
    strides: tuple[int, ...] | None = None
    anchors: Anchors | None = None
    reg_max: int | None = None
    convolutions: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.decode not in (None, *DECODES):
            raise UnknownNameError("decode", str(self.decode), DECODES)
        if self.values not in (None, "logits", "probabilities"):
            raise UnknownNameError("values", str(self.values), ("logits", "probabilities"))


class TensorHead:
    """A `Head` made of tensors in a named layout.

    Args:
        read: gives the tensors.
        layout: how they are read.
        options: how their values are meant; `decode` and `values` are known.
    """

    def __init__(self, read: Read, layout: Layout, options: TensorOptions) -> None:
        self._read, self._layout, self._options = read, layout, options
        self.strides = layout.strides

    def forward(self, batch: Tensor) -> HeadOutput:
        """See `Head`."""
        size = (batch.shape[2], batch.shape[3])
        rows = split(self._read(batch), self._layout, size)
        return HeadOutput(
            class_logits=self._logits(rows.class_logits),
            boxes=self._boxes(rows, size),
            objectness_logits=None
            if rows.objectness_logits is None
            else self._logits(rows.objectness_logits),
            levels=rows.levels,
            row_order=self._layout.row_order,
        )

    def _logits(self, values: Tensor) -> Tensor:
        if self._options.values == "logits":
            return values
        if values.detach().amin() < 0 or values.detach().amax() > 1:
            raise InputError("values='probabilities', but some lie outside 0..1: say values='logits'")
        return torch.logit(values, eps=_CERTAIN)

    def _boxes(self, rows: HeadRows, size: tuple[int, int]) -> Tensor:
        """(B, N, 4) xyxy in input pixels."""
        batch = len(rows.box_values)
        decode = DECODES[self._options.decode or ""]
        parts = []
        for values, level, anchors in zip(
            torch.split(rows.box_values, [level.rows for level in rows.levels], dim=1),
            rows.levels,
            self._anchors(rows.levels),
            strict=True,
        ):
            place = _Place(*_cells(level, self._layout.row_order, anchors, values), level.stride, size)
            boxes = [decode(values[picture], place) for picture in range(batch)]
            parts.append(torch.stack(boxes))
        return torch.cat(parts, dim=1)

    def _anchors(self, levels: Sequence[Level]) -> list[Anchors]:
        """Anchors of each level, finest first: they were given in the tensors' order."""
        given, each = self._options.anchors, self._layout.anchors
        if given is None:
            return [((0.0, 0.0),) * each] * len(levels)
        found = [given[start : start + each] for start in range(0, len(given), each)]
        return found[::-1] if self._layout.levels_order == "coarse to fine" else found


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the candidates of a level are: cells (n, 2) and anchors (n, 2), stride, (H, W) of the input."""

    cells: Tensor
    anchors: Tensor
    stride: int
    input_size: tuple[int, int]


def _cells(level: Level, order: RowOrder, anchors: Anchors, like: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row (n, 2) and anchor (n, 2) of every candidate of a level."""
    height, width = level.grid
    rows, columns = torch.meshgrid(
        torch.arange(height, device=like.device), torch.arange(width, device=like.device), indexing="ij"
    )
    cells = torch.stack([columns, rows], dim=-1).reshape(-1, 2).to(like.dtype)
    sizes = like.new_tensor(anchors)
    if order == "ayx":
        return cells.repeat(len(anchors), 1), sizes.repeat_interleave(len(cells), dim=0)
    return cells.repeat_interleave(len(anchors), dim=0), sizes.repeat(len(cells), 1)


def _distances(values: Tensor, place: _Place) -> Tensor:
    distances = expected_distances(values, values.shape[1] // 4)
    return boxes_around(place.cells + 0.5, distances) * place.stride


def _v3(values: Tensor, place: _Place) -> Tensor:
    return exponential_anchor_boxes(values, place.cells, place.anchors, place.stride)


def _v5(values: Tensor, place: _Place) -> Tensor:
    return squared_anchor_boxes(values, place.cells, place.anchors, place.stride)


def _xyxy(values: Tensor, place: _Place) -> Tensor:
    return values


def _cxcywh(values: Tensor, place: _Place) -> Tensor:
    return torch.cat([values[:, :2] - values[:, 2:] / 2, values[:, :2] + values[:, 2:] / 2], dim=1)


def _sides(values: Tensor, place: _Place) -> Tensor:
    height, width = place.input_size
    return values * values.new_tensor([width, height, width, height])


DECODES: dict[str, Callable[[Tensor, _Place], Tensor]] = {
    "ltrb": _distances,
    "dfl": _distances,
    "v3": _v3,
    "v5": _v5,
    "xyxy": _xyxy,
    "cxcywh": _cxcywh,
    "xyxyn": _sides,
    "cxcywhn": lambda values, place: _cxcywh(_sides(values, place), place),
}
"""How box values (n, 4) become boxes; see `TensorOptions.decode`."""


def tensor_head(
    model: nn.Module, given: Any, options: TensorOptions, about: GenericOptions
) -> tuple[TensorHead, GenericOptions]:
    """A head from the modules or the callable that give its tensors, read in one blank forward pass.

    Args:
        model: the network.
        given: dotted name or names of modules, or a callable from a batch to tensors.
        options: about the tensors.
        about: about the rest; named modules become its `head_modules`, unless it has others.

    Raises:
        InputError: what was said cannot be used.
        AmbiguousHeadError: the tensors can be read in several ways.
    """
    names = (given,) if isinstance(given, str) else given
    if isinstance(names, Sequence) and names and all(isinstance(name, str) for name in names):
        read = _named(model, tuple(names))
        about = replace(about, head_modules=about.head_modules or tuple(names))
    elif callable(given):
        read = _tensors_of(given)
    else:
        raise InputError(
            f"head is a {type(given).__name__}: give names of modules, a callable from a batch to tensors, "
            "or an object with strides and forward"
        )
    multiple = math.lcm(*(options.strides or (1,)))
    side = max(math.ceil(about.imgsz / multiple), 1) * multiple
    with borrowed(model), torch.no_grad():
        tensors = read(torch.full((1, 3, side, side), 0.5, device=device_of(model)))
    layout = infer(_facts(model, tensors, options, about, side))
    rows = split(tensors, layout, (side, side))
    return TensorHead(read, layout, _completed(options, layout, rows)), about


def _facts(
    model: nn.Module, tensors: Sequence[Tensor], options: TensorOptions, about: GenericOptions, side: int
) -> HeadFacts:
    return HeadFacts(
        input_size=(side, side),
        shapes=tuple(tuple(tensor.shape) for tensor in tensors),
        strides=options.strides,
        anchors=_anchors_per_cell(options, len(tensors)),
        reg_max=options.reg_max,
        layout=options.layout,
        convolutions=_convolutions(model, options),
        num_names=None if about.names is None else len(about.names),
        num_classes=about.num_classes,
    )


def _anchors_per_cell(options: TensorOptions, tensors: int) -> int | None:
    if options.anchors is None:
        return None
    levels = tensors if options.strides is None else len(options.strides)
    each, rest = divmod(len(options.anchors), levels)
    if rest or not each:
        raise InputError(
            f"{len(options.anchors)} anchors do not divide among {levels} levels: give w,h of all anchors of "
            "all levels, and strides if one tensor holds all levels"
        )
    return each


def _convolutions(model: nn.Module, options: TensorOptions) -> tuple[tuple[int, ...], ...] | None:
    if options.convolutions is None:
        return None
    return tuple(
        tuple(_module(model, name).get_parameter("weight").shape[0] for name in level)
        for level in options.convolutions
    )


def _completed(options: TensorOptions, layout: Layout, rows: HeadRows) -> TensorOptions:
    """What was left open, made definite, and what contradicts the layout refused."""
    decode = options.decode or ("dfl" if layout.reg_max > 1 else None)
    if decode is None:
        raise InputError(f"say how {layout.name} values become boxes: decode= one of {', '.join(DECODES)}")
    if (layout.reg_max > 1) != (decode == "dfl"):
        raise InputError(
            f"decode {decode!r} does not fit {layout}: dfl layouts, and only they, decode as 'dfl'"
        )
    if decode in ("v3", "v5") and options.anchors is None:
        raise InputError(
            f"decode {decode!r} needs anchors: (w, h) in input pixels, in the order of the levels"
        )
    if options.values is None:
        values = rows.class_logits
        if values.amin() >= 0 and values.amax() <= 1:
            raise InputError(
                "all class values lie in 0..1: say values='probabilities' if a sigmoid or softmax was "
                "applied, values='logits' if not"
            )
    return replace(options, decode=decode, values=options.values or "logits")


def _named(model: nn.Module, names: tuple[str, ...]) -> Read:
    modules = {name: _module(model, name) for name in names}

    def read(batch: Tensor) -> list[Tensor]:
        with observe(modules) as seen:
            model(batch)
        for name in names:
            if name not in seen:
                raise CaptureError(f"module {name!r} did not run in the forward pass: name another")
        return list(_tensors([seen[name] for name in names]))

    return read


def _tensors_of(given: Callable[[Tensor], Any]) -> Read:
    return lambda batch: list(_tensors(given(batch)))


def _module(model: nn.Module, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if not name or name not in modules:
        raise UnknownNameError("module", name, filter(None, modules))
    return modules[name]


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)

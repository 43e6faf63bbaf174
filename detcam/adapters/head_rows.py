"""A detection head's tensors as rows of candidates, in the order the rest of the house expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detcam.adapters.layouts import Layout, grid_of, shapes_text
from detcam.errors import InputError, ShapeError
from detcam.structures import Level, level_name


class HeadRows(NamedTuple):
    """A head's tensors as rows of candidates, level by level, finest first, in the live graph.

    Attributes:
        class_logits: (B, N, K), as the tensors have them.
        objectness_logits: (B, N), or None.
        box_values: (B, N, 4·reg_max), not decoded.
        levels: the levels.
    """

    class_logits: Tensor
    objectness_logits: Tensor | None
    box_values: Tensor
    levels: tuple[Level, ...]


def split(tensors: Sequence[Tensor], layout: Layout, input_size: tuple[int, int]) -> HeadRows:
    """Put a head's tensors into rows, box, objectness and classes apart: views where that is possible.

    Args:
        tensors: one per level or one for all, as `layout` was read from; the grids may be others.
        layout: how to read them.
        input_size: (H, W) of the network's input that gave them.

    Raises:
        InputError: an end-to-end layout, or the order of several levels in one tensor is not known.
        ShapeError: the tensors do not fit the layout.
    """
    if layout.num_classes is None or not layout.strides:
        raise InputError(
            "end-to-end tensors hold the winners' scores and no logits: name the modules before the selection"
        )
    if layout.levels_order is None:
        raise InputError(
            "one tensor with all levels does not show their order: give strides, in the order of its rows"
        )
    strides = layout.strides
    levels = [level_at(stride, input_size, layout.anchors) for stride in strides]
    rows = [_rows(tensor, layout) for tensor in tensors]
    if len(rows) == 1:
        _check_rows(rows, [sum(level.rows for level in levels)], layout, tensors)
        if layout.levels_order == "coarse to fine":
            rows = list(torch.split(rows[0], [level.rows for level in levels], dim=1))
    else:
        _check_rows(rows, [level.rows for level in levels], layout, tensors)
    if layout.levels_order == "coarse to fine":
        rows, levels = rows[::-1], levels[::-1]
    return _cut(rows[0] if len(rows) == 1 else torch.cat(rows, dim=1), layout, tuple(levels))


def _cut(rows: Tensor, layout: Layout, levels: tuple[Level, ...]) -> HeadRows:
    edges, classes = 4 * layout.reg_max, layout.num_classes or 0
    start = edges + layout.has_objectness
    return HeadRows(
        class_logits=rows[..., start : start + classes],
        objectness_logits=rows[..., edges] if layout.has_objectness else None,
        box_values=rows[..., :edges],
        levels=levels,
    )


def _rows(tensor: Tensor, layout: Layout) -> Tensor:
    """One tensor as (B, N, V)."""
    arrangement = layout.form.arrangement
    if tensor.ndim != {"grids": 5, "maps": 4}.get(arrangement, 3):
        raise ShapeError(f"a tensor {list(tensor.shape)} does not have the layout {layout.name!r}")
    if arrangement == "grids":
        return tensor.flatten(1, 3)
    if arrangement == "maps":
        if tensor.shape[1] % layout.anchors:
            raise ShapeError(f"{tensor.shape[1]} channels do not divide into {layout.anchors} anchors")
        batch, channels, height, width = tensor.shape
        values = tensor.reshape(batch, layout.anchors, channels // layout.anchors, height, width)
        return values.permute(0, 1, 3, 4, 2).flatten(1, 3)
    return tensor.transpose(1, 2) if arrangement == "columns" else tensor


def _check_rows(
    rows: Sequence[Tensor], expected: Sequence[int], layout: Layout, tensors: Sequence[Tensor]
) -> None:
    values = 4 * layout.reg_max + layout.has_objectness + (layout.num_classes or 0) + layout.extra
    if [(r.shape[1], r.shape[2]) for r in rows] != [(count, values) for count in expected]:
        raise ShapeError(
            f"tensors {shapes_text([tuple(t.shape) for t in tensors])} are not {list(expected)} candidates "
            f"of {values} values each, as {layout} at strides {list(layout.strides)} has them"
        )


def level_at(stride: int, input_size: tuple[int, int], anchors: int) -> Level:
    """The level of a stride on an input of (H, W)."""
    return Level(level_name(stride), stride, grid_of(input_size, stride), anchors)

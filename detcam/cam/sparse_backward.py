"""Backward passes of convolutions that leave zeros out.

The gradient of one prediction is exactly zero almost everywhere: at the head's input of a YOLO it fills five
by five cells. A convolution's backward pass is linear, so it is enough to run it where there is something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Block = tuple[slice, slice]
"""Rows and columns."""

_SMALLEST_GAP = 4
"""Cells: two calls for what lies closer together would cost more than the zeros between."""


class SparseBackward(TorchFunctionMode):
    """While active, 2-D convolutions compute the gradient of their input block by block, without the zeros.

    Values are those of torch's own backward pass up to the order of summation, and an input whose gradient
    is zero everywhere has none (None). For frozen weights on the CPU: on a GPU every look for zeros would
    wait for the device. No module is touched. Gradients of gradients are not supported.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        arguments = _conv2d_arguments(*args, **(kwargs or {})) if func is torch.conv2d else None
        if arguments is None:
            return func(*args, **(kwargs or {}))
        return _SparseConv2d.apply(*arguments)


def blocks(touched: np.ndarray) -> Iterator[Block]:
    """Rectangles that hold every True cell of (h, w), split where there is room between them."""
    for rows in _runs(touched.any(axis=1)):
        for columns in _runs(touched[rows].any(axis=0)):
            yield rows, columns


class _SparseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tensor: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight)
        ctx.input_shape = tensor.shape
        ctx.geometry = stride, padding, dilation, groups
        return torch.conv2d(tensor, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        found = None
        if gradient is not None:
            found = _input_gradient(gradient, ctx.saved_tensors[0], ctx.input_shape, *ctx.geometry)
        return found, None, None, None, None, None, None


def _input_gradient(
    gradient: Tensor,
    weight: Tensor,
    input_shape: torch.Size,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor | None:
    """The gradient of a convolution's input (B, C, H, W); None where it is zero everywhere."""
    touched = gradient.abs().amax(dim=1).ne(0).numpy()
    if not touched.any():
        return None
    found = gradient.new_zeros(input_shape)
    for pictures, (rows, columns) in _pieces(touched):
        part = gradient[pictures, :, rows, columns]
        part = F.conv_transpose2d(part, weight, None, stride, 0, 0, groups, dilation)
        to_rows, from_rows = _overlap(rows.start * stride[0] - padding[0], part.shape[2], input_shape[2])
        to_columns, from_columns = _overlap(
            columns.start * stride[1] - padding[1], part.shape[3], input_shape[3]
        )
        found[pictures, :, to_rows, to_columns] += part[:, :, from_rows, from_columns]
    return found


def _pieces(touched: np.ndarray) -> list[tuple[slice, Block]]:
    """Pictures and rectangles that hold every True cell of (B, h, w).

    Each picture's own, or the same for all: one call for many pictures is faster than many, unless it has
    more than twice the cells to go through.
    """
    own = [(slice(i, i + 1), block) for i, cells in enumerate(touched) for block in blocks(cells)]
    shared = [(slice(0, len(touched)), block) for block in blocks(np.any(touched, axis=0))]
    is_dense = len(touched) * sum(_area(one) for _, one in shared) <= 2 * sum(_area(one) for _, one in own)
    return shared if is_dense else own


def _area(block: Block) -> int:
    rows, columns = block
    return int((rows.stop - rows.start) * (columns.stop - columns.start))


def _overlap(start: int, length: int, side: int) -> tuple[slice, slice]:
    """Where `length` cells from `start` on lie inside a side, and which of them these are."""
    first, last = max(start, 0), max(min(start + length, side), 0)
    return slice(first, last), slice(first - start, max(last, first) - start)


def _runs(touched: Any) -> Iterator[slice]:
    """Stretches of (n,) that hold every True, with gaps of at least `_SMALLEST_GAP` between them."""
    places = np.flatnonzero(touched)
    if not len(places):
        return
    breaks = np.flatnonzero(np.diff(places) > _SMALLEST_GAP)
    starts = places[np.concatenate([[0], breaks + 1])]
    ends = places[np.concatenate([breaks, [len(places) - 1]])] + 1
    yield from (slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True))


def _conv2d_arguments(
    input: Any,  # noqa: A002  # as torch calls it
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...] | None:
    """What `_SparseConv2d` takes of a call of `torch.conv2d`; None for a call that is better left alone."""
    is_ours = (
        type(input) is Tensor
        and input.requires_grad
        and input.ndim == 4
        and input.device.type == "cpu"
        and not weight.requires_grad
        and not (bias is not None and bias.requires_grad)
        and not isinstance(padding, str)
    )
    if not is_ours:
        return None
    return input, weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups


def _pair(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return (values[0], values[-1])

"""What formulas share: inputs whose shapes fit, in float32, and the sum that most of them end in."""

from __future__ import annotations

import torch
from torch import Tensor

from detcam.errors import InputError, ShapeError


def check_feature_maps(**tensors: Tensor) -> None:
    """Check that each tensor is a stack of feature maps, (B, C, h, w); B may be 0, the others may not.

    Raises:
        ShapeError: one is not; the text has its name and shape.
    """
    for name, tensor in tensors.items():
        if tensor.ndim != 4 or 0 in tensor.shape[1:]:
            raise ShapeError(
                f"{name} must be (B, C, h, w) with at least one channel and one cell, "
                f"got {tuple(tensor.shape)}"
            )


def check_same_shape(**tensors: Tensor) -> None:
    """Check that all have one shape: a formula that multiplies them must never broadcast.

    Raises:
        ShapeError: they differ; the text has all names and shapes.
    """
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    if len(set(shapes)) > 1:
        names = " and ".join(tensors)
        raise ShapeError(f"{names} must have one shape, got {' and '.join(map(str, shapes))}")


def check_rows(activations: Tensor, columns: tuple[int, ...], **tensors: Tensor) -> None:
    """Check that each tensor has one row for every map of `activations`: (B, *columns).

    Raises:
        ShapeError: one has not; the text has both shapes.
    """
    expected = (activations.shape[0], *columns)
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected:
            raise ShapeError(
                f"{name} must be {expected}, one row for every map of activations "
                f"{tuple(activations.shape)}, got {tuple(tensor.shape)}"
            )


def feature_maps_float32(**tensors: Tensor) -> tuple[Tensor, ...]:
    """Check that all are feature maps of one shape and give them in float32: half precision ends here.

    float16 would overflow in the sums over cells, bfloat16 has 8 bits to sum them in.

    Raises:
        ShapeError: not (B, C, h, w), or the shapes differ.
    """
    check_feature_maps(**tensors)
    check_same_shape(**tensors)
    return tuple(tensor.float() for tensor in tensors.values())


def positive_sum(terms: Tensor) -> Tensor:
    """relu(Σ_c terms_c): (B, C, h, w) -> (B, h, w) >= 0."""
    return terms.sum(dim=1).clamp(min=0)


def boxes_float32(activations: Tensor, **named_boxes: Tensor) -> Tensor:
    """Check one xyxy box for every map of `activations`; give them in float32 on the activations' device.

    Raises:
        ShapeError: activations are not (B, C, h, w) or the boxes not (B, 4).
        InputError: a box ends before it begins, or is not a number.
    """
    check_feature_maps(activations=activations)
    check_rows(activations, (4,), **named_boxes)
    ((name, boxes),) = named_boxes.items()
    boxes = boxes.to(activations.device, torch.float32)
    is_ordered = (boxes[:, :2] <= boxes[:, 2:]).all(dim=1)
    if not is_ordered.all():
        worst = int(is_ordered.logical_not().nonzero()[0])
        raise InputError(f"{name} must be xyxy with x1 <= x2 and y1 <= y2, got {boxes[worst].tolist()}")
    return boxes

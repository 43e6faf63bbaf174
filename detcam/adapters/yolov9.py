"""YOLOv9 as its authors publish it (WongKinYiu): live models with one, two or three detection branches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from torch import nn

from detcam.adapters.anchor_free import (
    AnchorFreeDetector,
    AnchorFreeHead,
    EdgeDistances,
    output_channels,
)
from detcam.adapters.base import LoadOptions
from detcam.adapters.class_names import class_names_for
from detcam.adapters.preparation import LetterboxedRectangle
from detcam.adapters.restoring import kept_attributes
from detcam.adapters.stages import LayerTable, described_backbone
from detcam.adapters.suppression import suppress
from detcam.adapters.yolov5_modules import sources_of
from detcam.structures import LayerSet

_IOU = 0.45
_INPUT_STRIDE = 32


def recognises(model: nn.Module) -> bool:
    """Whether a live model ends in a head of the YOLOv9 repository.

    Its heads with one branch look like those of ultralytics. But models of ultralytics, THU-MIG's among them,
    have `predict`, and YOLOv9's have not.
    """
    layers = getattr(model, "model", None)
    if not isinstance(layers, nn.Sequential) or not len(layers) or hasattr(model, "predict"):
        return False
    needed = ("cv2", "cv3", "dfl", "nl", "reg_max", "stride", "f")
    return hasattr(model, "yaml") and all(hasattr(layers[-1], name) for name in needed)


def wrap(model: nn.Module, options: LoadOptions) -> AnchorFreeDetector:
    """A detector around a live YOLOv9 or GELAN model; of several branches the main one, which is the last.

    The others are auxiliary: they help training, and the repository's own detection leaves them out.

    Args:
        model: the `DetectionModel`.
        options: `names`, which go over the model's, and `num_classes`.

    Raises:
        InputError: names or number of classes do not fit the weights.
        UnsupportedModelError: the model lacks its description.
    """
    vendor = cast(Any, model)
    last = len(vendor.model) - 1
    head = vendor.model[last]
    branches = _branches(head)
    boxes, classes = f"cv{2 * branches}", f"cv{2 * branches + 1}"
    strides = [int(stride) for stride in head.stride]
    return AnchorFreeDetector(
        model=model,
        family=f"YOLOv9 {type(head).__name__}",
        heads=tuple(
            AnchorFreeHead(stride, f"model.{last}.{classes}.{i}", f"model.{last}.{boxes}.{i}")
            for i, stride in enumerate(strides)
        ),
        class_names=class_names_for(
            output_channels(getattr(head, classes)[0][-1]), getattr(vendor, "names", None), options
        ),
        preparation=LetterboxedRectangle(stride=max(*strides, _INPUT_STRIDE)),
        decode=EdgeDistances(head.reg_max),
        select=partial(suppress, own_iou=_IOU),
        table=_layer_table(vendor, head.f[(branches - 1) * head.nl : branches * head.nl]),
        guard=partial(_fresh_anchors, head),
    )


def _branches(head: Any) -> int:
    """Detection branches of a head: each has a projection of its own."""
    return 3 if hasattr(head, "dfl3") else 2 if hasattr(head, "dfl2") else 1


def _layer_table(model: Any, feeders: list[int]) -> LayerTable:
    """The layers that the main branch depends on; those of auxiliary branches alone explain nothing."""
    backbone = described_backbone(model)
    needed: set[int] = set()
    pending = list(feeders)
    while pending:
        index = pending.pop()
        if index >= 0 and index not in needed:  # -1 is the picture
            needed.add(index)
            pending += sources_of(model.model[index], index)
    parts: dict[str, LayerSet] = {
        f"model.{i}": "backbone" if i < backbone else "neck" for i in sorted(needed)
    }
    return LayerTable(parts, tuple(f"model.{i}" for i in feeders))


@contextmanager
def _fresh_anchors(head: nn.Module) -> Iterator[None]:
    """Have the head make its grid anew, as it may have been made in inference mode, and keep its own."""
    with kept_attributes(head):
        cast(Any, head).shape = None
        yield

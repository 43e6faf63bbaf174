"""YOLOv6 of Meituan, releases 3 and 4: live models."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import nn

from detcam.adapters.anchor_free import (
    AnchorFreeDetector,
    AnchorFreeHead,
    EdgeDistances,
    output_channels,
)
from detcam.adapters.base import LoadOptions, device_of
from detcam.adapters.class_names import class_names_for
from detcam.adapters.preparation import LetterboxedRectangle
from detcam.adapters.restoring import kept_attributes
from detcam.adapters.stages import LayerTable
from detcam.adapters.suppression import suppress
from detcam.cam.capture import borrowed, observe
from detcam.errors import UnsupportedModelError
from detcam.structures import LayerSet

_IOU = 0.45


def recognises(model: nn.Module) -> bool:
    """Whether a live model has the parts of YOLOv6 and its head without objectness."""
    head = getattr(model, "detect", None)
    return (
        all(isinstance(getattr(model, part, None), nn.Module) for part in ("backbone", "neck"))
        and all(hasattr(head, name) for name in ("stems", "cls_preds", "reg_preds", "stride"))
        and not hasattr(head, "obj_preds")
    )


def wrap(model: nn.Module, options: LoadOptions) -> AnchorFreeDetector:
    """A detector around a live YOLOv6, trained with or without distribution focal loss, fused or not.

    The constant 1 that its output has for objectness is left out: the score is the class's alone.

    Args:
        model: the network with `backbone`, `neck` and `detect`.
        options: `names`, which no YOLOv6 holds, and `num_classes`.

    Raises:
        InputError: names or number of classes do not fit the weights.
    """
    vendor = cast(Any, model)
    head = vendor.detect
    strides = [int(stride) for stride in head.stride]
    return AnchorFreeDetector(
        model=model,
        family="YOLOv6",
        heads=tuple(
            AnchorFreeHead(stride, f"detect.cls_preds.{i}", f"detect.reg_preds.{i}")
            for i, stride in enumerate(strides)
        ),
        class_names=class_names_for(
            output_channels(head.cls_preds[0]), getattr(vendor, "names", None), options
        ),
        preparation=LetterboxedRectangle(stride=max(strides)),
        decode=EdgeDistances(output_channels(head.reg_preds[0]) // 4),
        select=partial(suppress, own_iou=_IOU),
        table=_layer_table(vendor, 2 * max(strides)),
        guard=partial(kept_attributes, head),
    )


def _layer_table(model: Any, side: int) -> LayerTable:
    """Children of backbone and neck that have weights, in the order in which they run, and the head's inputs.

    The neck comes in a dozen forms, so what runs when and what feeds the head is seen in a forward pass.
    """
    found = {
        f"{part}.{name}": child
        for part in ("backbone", "neck")
        for name, child in getattr(model, part).named_children()
        if any(True for _ in child.parameters())
    }
    blank = torch.zeros(1, 3, side, side, device=device_of(model))
    with borrowed(model), torch.no_grad(), observe(found) as seen:
        inputs = model.neck(model.backbone(blank))  # the head would overwrite the list
    if not isinstance(inputs, list | tuple):
        raise UnsupportedModelError("the neck of this YOLOv6 gives no list of maps: it is no detector's")
    parts: dict[str, LayerSet] = {
        name: "backbone" if name.startswith("backbone.") else "neck" for name in seen
    }
    feeders = tuple(name for one in inputs for name, output in seen.items() if output is one)
    return LayerTable(parts, feeders)

"""YOLOX in Megvii's layout: live models, and state dicts without that repository."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from detcam.adapters.anchor_free import (
    AnchorFreeDetector,
    AnchorFreeHead,
    output_channels,
)
from detcam.adapters.base import LoadOptions
from detcam.adapters.class_names import class_names_for
from detcam.adapters.preparation import PaddedBehind
from detcam.adapters.restoring import kept_attributes
from detcam.adapters.stages import LayerTable
from detcam.adapters.suppression import suppress_across_classes
from detcam.adapters.weights import check_weights_are_finite, said_by
from detcam.adapters.yolox_network import STRIDES, YoloxNetwork
from detcam.checkpoints import ModelFile
from detcam.errors import CheckpointError
from detcam.scoring import ObjectTimesClass
from detcam.structures import LayerSet, Origin

_IOU = 0.45  # of the commands Megvii's readme gives, and its `postprocess`'s default
_SMALL_SIDE, _SIDE = 416, 640
_SMALL_HEAD = 128  # channels below which Megvii tests at the small side: nano has 64, tiny 96, s 128

_BACKBONE = ("stem", "dark2", "dark3", "dark4", "dark5")
_FEEDERS = ("C3_p3", "C3_n3", "C3_n4")
_NECK = ("lateral_conv0", "C3_p4", "reduce_conv1", "C3_p3", "bu_conv2", "C3_n3", "bu_conv1", "C3_n4")
_HEAD = ("stems", "cls_convs", "reg_convs", "cls_preds", "reg_preds", "obj_preds")


def recognises(model: nn.Module) -> bool:
    """Whether a live model is a YOLOX with CSPDarknet and PAFPN, as YOLOX-nano to -x are."""
    neck = getattr(model, "backbone", None)
    parts = (
        (neck, _NECK),
        (getattr(neck, "backbone", None), _BACKBONE),
        (getattr(model, "head", None), _HEAD),
    )
    return all(hasattr(part, name) for part, names in parts for name in names)


def wrap(model: nn.Module, options: LoadOptions, origin: Origin | None = None) -> AnchorFreeDetector:
    """A detector around a YOLOX network.

    Its boxes and detections are those of the repository's demo: suppression does not look at classes. The
    input is 416 pixels wide for nets up to YOLOX-tiny, else 640, as the repository tests them.

    Args:
        model: a live YOLOX.
        options: `names`, which no YOLOX holds, and `num_classes`.
        origin: the file it came from.

    Raises:
        InputError: names or number of classes do not fit the weights.
    """
    vendor = cast(Any, model)
    head = vendor.head
    return AnchorFreeDetector(
        model=model,
        family="YOLOX",
        heads=tuple(
            AnchorFreeHead(
                stride, f"head.cls_preds.{i}", f"head.reg_preds.{i}", objectness=f"head.obj_preds.{i}"
            )
            for i, stride in enumerate(getattr(head, "strides", STRIDES))
        ),
        class_names=class_names_for(output_channels(head.cls_preds[0]), None, options),
        preparation=PaddedBehind(stride=max(STRIDES)),
        decode=boxes_from_offsets,
        select=partial(suppress_across_classes, own_iou=_IOU),
        table=LayerTable(_parts(), tuple(f"backbone.{name}" for name in _FEEDERS)),
        scoring=ObjectTimesClass(),
        imgsz=_SMALL_SIDE if head.cls_preds[0].in_channels < _SMALL_HEAD else _SIDE,
        origin=origin,
        guard=partial(kept_attributes, head),
    )


def reads(file: ModelFile, options: LoadOptions) -> bool:
    """Whether a file holds a state dict with YOLOX's head."""
    tensors = file.tensors or {}
    return all(f"head.{name}_preds.0.weight" in tensors for name in ("cls", "reg", "obj"))


def load(file: ModelFile, options: LoadOptions) -> AnchorFreeDetector:
    """A detector from a state dict; the network is built to fit it, with SiLU activations.

    Raises:
        CheckpointError: the tensors are no whole YOLOX with CSPDarknet and PAFPN, or hold NaN.
        InputError: names or number of classes do not fit the weights.
    """
    tensors = file.tensors or {}
    model = _network(file, tensors)
    return wrap(model, options, Origin(str(file.path), file.sha256, trust="safe"))


def boxes_from_offsets(values: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Boxes (n, 4) xyxy in pixels: centre (t_xy + cell)·stride, size exp(t_wh)·stride.

    Ge et al. 2021, YOLOX, arXiv:2107.08430, sec. 2.1; a cell counts from its top left corner.

    Args:
        values: (n, 4) t_x, t_y, t_w, t_h.
        centres: (n, 2) centres of the cells as (x, y), in cells.
        strides: (n, 1) pixels per cell.
    """
    middle = (values[:, :2] + centres - 0.5) * strides
    half = values[:, 2:].exp() * strides / 2
    return torch.cat([middle - half, middle + half], dim=1)


def _parts() -> dict[str, LayerSet]:
    """Layers in the order in which they run; the upsampling, which runs twice, is none."""
    parts: dict[str, LayerSet] = {f"backbone.backbone.{name}": "backbone" for name in _BACKBONE}
    for name in _NECK:
        if name in _FEEDERS:
            # The last place before the head's input: what the block concatenates is no module's output.
            parts[f"backbone.{name}.m"] = "neck"
        parts[f"backbone.{name}"] = "neck"
    return parts


def _network(file: ModelFile, tensors: Mapping[str, Tensor]) -> YoloxNetwork:
    try:
        model = YoloxNetwork(tensors)
        _check_holds_no_more(file, tensors, model)
        model.load_state_dict(dict(tensors))
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, max(STRIDES), max(STRIDES)))
    except KeyError as error:
        raise CheckpointError(
            f"{file.path} lacks {error}: a YOLOX with CSPDarknet and PAFPN, as YOLOX-nano to -x are, has it. "
            "For another network, give the live model to detcam.wrap"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{file.path} is no whole YOLOX: {said_by(error)}. Copy or export it again"
        ) from error
    check_weights_are_finite(model, file.path)
    return model


def _check_holds_no_more(file: ModelFile, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    own = model.state_dict()
    more = [name for name in tensors if name not in own]
    if more:
        raise CheckpointError(
            f"{file.path} holds {len(more)} more than the tensors of a YOLOX, the first {more[0]!r}: "
            "if it is of a network that was changed, give the live model to detcam.wrap"
        )

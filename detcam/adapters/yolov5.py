"""Detectors of the YOLOv5, YOLOv3 and YOLOv7 repositories: live models, and their `.pt` files.

The three share one plan: numbered layers, the last of which makes one raw map per level. What its forward
pass returns is not used: some releases decode in place, which cuts the gradient, and an exporting head
drops the maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from detcam.adapters.anchor_grid import AnchorGridDetector, AnchorHead
from detcam.adapters.base import LoadOptions
from detcam.adapters.class_names import class_names_for, classes_in
from detcam.adapters.decoding import squared_anchor_boxes
from detcam.adapters.preparation import LetterboxedRectangle
from detcam.adapters.restoring import kept_attributes
from detcam.adapters.stages import LayerTable, described_backbone
from detcam.adapters.weights import check_weights_are_finite, made_to_run
from detcam.adapters.yolov5_checkpoint import load_network, trained_size
from detcam.adapters.yolov5_modules import sources_of
from detcam.checkpoints import CheckpointFile, ModelFile
from detcam.errors import CheckpointError, UnsupportedModelError
from detcam.scoring import ObjectAlone, ObjectTimesClass, Scoring
from detcam.structures import Origin

_HEAD_ATTRIBUTES = ("m", "anchors", "stride", "f")
_OWN_SIZE, _OWN_IOU = 640, 0.45


def recognises(model: nn.Module) -> bool:
    """Whether the model ends in a head with anchors, as these repositories build it."""
    layers = getattr(model, "model", None)
    if not isinstance(layers, nn.Sequential) or not len(layers):
        return False
    return all(hasattr(layers[-1], name) for name in _HEAD_ATTRIBUTES) and not hasattr(layers[-1], "cv2")


def wrap(model: nn.Module, options: LoadOptions) -> AnchorGridDetector:
    """A detector around a live model.

    Raises:
        UnsupportedModelError: its parts do not fit together.
        InputError: an option that does not fit.
    """
    return _detector(model, options, _OWN_SIZE, None)


def reads(file: ModelFile, options: LoadOptions) -> bool:
    """Whether a file names the classes of these repositories."""
    return any(name.startswith("models.yolo.") for name in file.globals)


def load(file: ModelFile, options: LoadOptions) -> AnchorGridDetector:
    """A detector from a `.pt` file; nothing in the file runs unless it is allowed to.

    Raises:
        CheckpointError: the file cannot be read, or holds no detector.
        UnsafeCheckpointError: the file would have to run code that nobody allowed.
        InputError: an option that does not fit.
    """
    model, checkpoint = load_network(
        cast(CheckpointFile, file.checkpoint), allow_globals=options.allow_globals, unsafe=options.unsafe
    )
    if not recognises(model):
        raise CheckpointError(f"{file.path} holds a {type(model).__name__} without a head that has anchors")
    check_weights_are_finite(model, file.path)
    origin = Origin(str(file.path), file.sha256, checkpoint.trust, checkpoint.allowed_globals)
    imgsz = trained_size(checkpoint) or _OWN_SIZE
    return made_to_run(file.path, lambda: _detector(model, options, imgsz, origin))


def _detector(
    model: nn.Module, options: LoadOptions, imgsz: int, origin: Origin | None
) -> AnchorGridDetector:
    network = cast(Any, model)
    head = network.model[-1]
    heads, classes = _levels(head, f"model.{len(network.model) - 1}")
    # Only YOLOv7's networks can be traced, and only its heads have implicit layers.
    is_v7 = hasattr(model, "traced") or hasattr(head, "ia")
    return AnchorGridDetector(
        model=model,
        family=f"{'YOLOv7' if is_v7 else 'YOLOv5 or YOLOv3'}, {len(heads)} levels with anchors",
        heads=heads,
        class_names=class_names_for(classes, getattr(model, "names", None), options),
        preparation=LetterboxedRectangle(max(*(level.stride for level in heads), 32)),
        scoring=_scoring(classes, is_v7=is_v7),
        own_iou=_OWN_IOU,
        table=_table(network, len(heads)),
        imgsz=imgsz,
        origin=origin,
        guard=partial(_kept, head),
    )


def _scoring(classes: int, *, is_v7: bool) -> Scoring:
    if is_v7 and classes == 1:
        return ObjectAlone()
    # The loss leaves the one class of a one-class model out.
    return ObjectTimesClass(is_class_trained=classes > 1)


def _levels(head: Any, name: str) -> tuple[tuple[AnchorHead, ...], int]:
    """The head's levels and the number of classes, from the shapes of its last convolutions."""
    strides = [round(float(stride)) for stride in head.stride]
    anchors = _anchors_in_pixels(head)
    if not len(strides) == len(anchors) == len(head.m) or min(strides, default=0) < 1:
        raise UnsupportedModelError(
            f"the head has {len(head.m)} maps, anchors of {len(anchors)} levels and strides {strides}"
        )
    extra = int(getattr(head, "nm", 0))
    classes = {classes_in(conv.out_channels, anchors.shape[1], extra) for conv in head.m}
    if len(classes) != 1:
        raise UnsupportedModelError(f"the head's maps disagree on the number of classes: {sorted(classes)}")
    # The raw map is behind the implicit factors, unless fusing has put these into the convolutions.
    last = "im" if hasattr(head, "im") and "forward" not in vars(head) else "m"
    levels = (
        AnchorHead(
            layer=f"{name}.{last}.{i}",
            stride=stride,
            anchors=tuple((width, height) for width, height in anchors[i].tolist()),
            decode=squared_anchor_boxes,
            extra=extra,
        )
        for i, stride in enumerate(strides)
    )
    return tuple(levels), classes.pop()


def _anchors_in_pixels(head: Any) -> Tensor:
    """Anchors (levels, A, 2); older heads and YOLOv7 decode with a copy of their own, in pixels."""
    anchors = cast(Tensor, head.anchors).detach().float()
    own = head._buffers.get("anchor_grid")
    if isinstance(own, Tensor):
        return own.detach().float().reshape(anchors.shape)
    strides = torch.as_tensor(head.stride, dtype=torch.float32, device=anchors.device)
    return anchors * strides.reshape(-1, 1, 1)


def _table(network: Any, levels: int) -> LayerTable:
    """All layers but the head; the description in the model says where the backbone ends."""
    backbone = described_backbone(network)
    count = len(network.model) - 1
    # Auxiliary heads, used in training only, read the sources behind the first ones.
    feeders = list(sources_of(network.model[-1], count))[:levels]
    return LayerTable(
        parts={f"model.{i}": "backbone" if i < backbone else "neck" for i in range(count)},
        feeders=tuple(f"model.{i}" for i in feeders),
    )


@contextmanager
def _kept(head: Any) -> Iterator[None]:
    """Give a live head its caches and flags back; for the time being it makes its grids anew.

    Predict may have left grids made in inference mode, which no graph can hold.
    """
    with kept_attributes(head):
        for name in ("grid", "anchor_grid"):
            if isinstance(vars(head).get(name), list):
                setattr(head, name, [torch.zeros(1) for _ in vars(head)[name]])
        yield

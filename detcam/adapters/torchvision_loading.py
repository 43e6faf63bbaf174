"""torchvision's detectors, live or from a state dict and the name of the builder it belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, mobilenet_v3_large
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead

from detcam.adapters.base import LoadOptions
from detcam.adapters.torchvision_common import TorchvisionDetector, names_by_label
from detcam.adapters.torchvision_dense import FCOSDetector, RetinaNetDetector, SSDDetector
from detcam.adapters.torchvision_regions import RegionsDetector
from detcam.checkpoints import ModelFile
from detcam.errors import CheckpointError, InputError, UnknownNameError, UnsupportedModelError
from detcam.structures import Origin

_KINDS: tuple[type[TorchvisionDetector], ...] = (
    RegionsDetector,
    RetinaNetDetector,
    FCOSDetector,
    SSDDetector,
)
_LAST = re.compile(r"\.(cls_score|bbox_pred|cls_logits|module_list\.\d+(\.1)?)\.weight$")
_CLASS_LAYERS = ("roi_heads.box_predictor.", "head.classification_head.")


@dataclass(frozen=True)
class Architecture:
    """A torchvision builder and how its state dicts are known.

    Attributes:
        build: takes `num_classes`, `weights` and `weights_backbone`.
        marks: the tensor that no other kind of detector has.
        frozen_eps: of the backbone's frozen batch normalisation, where torchvision's own weights have it
            differ from the 1e-5 of everything else.
    """

    build: Callable[..., nn.Module]
    marks: str
    frozen_eps: float | None = None


_RCNN = "roi_heads.box_predictor.cls_score.weight"
_MASK = "roi_heads.mask_predictor.mask_fcn_logits.weight"
_KEYPOINT = "roi_heads.keypoint_predictor.kps_score_lowres.weight"
_RETINA = "head.classification_head.cls_logits.weight"
_FCOS = "head.regression_head.bbox_ctrness.weight"
_SSD = "head.classification_head.module_list.0.weight"
_SSDLITE = "head.classification_head.module_list.0.1.weight"

# The rarer mark first: a Mask R-CNN also bears a Faster R-CNN's, an FCOS a RetinaNet's.
ARCHITECTURES: dict[str, Architecture] = {
    "maskrcnn_resnet50_fpn": Architecture(detection.maskrcnn_resnet50_fpn, _MASK, frozen_eps=0.0),
    "maskrcnn_resnet50_fpn_v2": Architecture(detection.maskrcnn_resnet50_fpn_v2, _MASK),
    "keypointrcnn_resnet50_fpn": Architecture(detection.keypointrcnn_resnet50_fpn, _KEYPOINT, frozen_eps=0.0),
    "fasterrcnn_resnet50_fpn": Architecture(detection.fasterrcnn_resnet50_fpn, _RCNN, frozen_eps=0.0),
    "fasterrcnn_resnet50_fpn_v2": Architecture(detection.fasterrcnn_resnet50_fpn_v2, _RCNN),
    "fasterrcnn_mobilenet_v3_large_fpn": Architecture(detection.fasterrcnn_mobilenet_v3_large_fpn, _RCNN),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Architecture(
        detection.fasterrcnn_mobilenet_v3_large_320_fpn, _RCNN
    ),
    "fcos_resnet50_fpn": Architecture(detection.fcos_resnet50_fpn, _FCOS),
    "retinanet_resnet50_fpn": Architecture(detection.retinanet_resnet50_fpn, _RETINA, frozen_eps=0.0),
    "retinanet_resnet50_fpn_v2": Architecture(detection.retinanet_resnet50_fpn_v2, _RETINA),
    "ssd300_vgg16": Architecture(detection.ssd300_vgg16, _SSD),
    "ssdlite320_mobilenet_v3_large": Architecture(detection.ssdlite320_mobilenet_v3_large, _SSDLITE),
}


def recognises_torchvision(model: nn.Module) -> bool:
    """Whether a live model is one of torchvision's detectors."""
    return any(kind.recognises(model) for kind in _KINDS)


def wrap_torchvision(
    model: nn.Module, options: LoadOptions, origin: Origin | None = None
) -> TorchvisionDetector:
    """A detector around a live model.

    Raises:
        UnsupportedModelError: it is none of torchvision's.
        InputError: names or class count do not fit its head.
    """
    for kind in _KINDS:
        if kind.recognises(model):
            return kind(model, options, origin)
    raise UnsupportedModelError(f"{type(model).__name__} is no torchvision detector")


def reads_torchvision(file: ModelFile, options: LoadOptions) -> bool:
    """Whether a file holds the weights of such a detector, or is said to by `options.arch`."""
    if file.tensors is None:
        return False
    return options.arch is not None or any(name.startswith(_CLASS_LAYERS) for name in file.tensors)


def load_torchvision(file: ModelFile, options: LoadOptions) -> TorchvisionDetector:
    """A detector from a state dict; the network is built without any download.

    Raises:
        InputError: no `arch`, or a class count or names that do not fit the weights.
        UnknownNameError: no such builder.
        CheckpointError: the weights do not fit the builder's network.
    """
    tensors = file.tensors or {}
    architecture = _architecture(file, options.arch)
    columns = class_columns(tensors)
    if columns is None or architecture.marks not in tensors:
        raise CheckpointError(
            f"{file.path} is no state dict of {options.arch}: it lacks {architecture.marks!r}"
            + _hint(tensors)
        )
    names_by_label(columns, options, is_zero_a_class=True)  # before anything is built
    with torch.random.fork_rng(devices=[]):  # whoever loads a model keeps his random numbers
        model = _built(architecture, tensors, columns)
    _fill(model, tensors, f"{file.path} does not fit {options.arch}")
    origin = Origin(str(file.path), file.sha256, trust="safe")
    return wrap_torchvision(model.eval(), options, origin)


def class_columns(tensors: Mapping[str, Tensor]) -> int | None:
    """Classes, background included, that a state dict's head scores; None if it has no such head."""
    if _RCNN in tensors:
        return len(tensors[_RCNN])
    for classes, edges in (
        (_RETINA, "head.regression_head.bbox_reg.weight"),
        (_SSD, "head.regression_head.module_list.0.weight"),
        (_SSDLITE, "head.regression_head.module_list.0.1.weight"),
    ):
        if classes in tensors and edges in tensors:
            # Of every anchor, as many rows as there are classes, and four for the edges of its box.
            return len(tensors[classes]) // max(len(tensors[edges]) // 4, 1)
    return None


def torchvision_class_layers(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Name of a weight of the layers that score classes and boxes -> its output channels; {} for none."""
    if class_columns(tensors) is None:
        return {}
    return {
        name: len(weight)
        for name, weight in tensors.items()
        if name.startswith(_CLASS_LAYERS) and _LAST.search(name) and weight.ndim > 1
    }


def _architecture(file: ModelFile, arch: str | None) -> Architecture:
    if arch is None:
        raise InputError(
            f"{file.path} holds the weights of a torchvision detector, but not which: give --arch"
            + _hint(file.tensors or {})
        )
    if arch not in ARCHITECTURES:
        raise UnknownNameError("torchvision detector", arch, ARCHITECTURES)
    return ARCHITECTURES[arch]


def _hint(tensors: Mapping[str, Tensor]) -> str:
    """The builders whose mark the weights bear."""
    marks = [one.marks for one in ARCHITECTURES.values() if one.marks in tensors]
    fitting = [name for name, one in ARCHITECTURES.items() if marks and one.marks == marks[0]]
    return f". It may be {' or '.join(fitting)}" if fitting else ""


def _built(architecture: Architecture, tensors: Mapping[str, Tensor], columns: int) -> nn.Module:
    """The builder's network, shaped after the weights where the builder's arguments leave it open."""
    build = partial(architecture.build, weights=None, weights_backbone=None, num_classes=columns)
    model = build(num_keypoints=tensors[_KEYPOINT].shape[1]) if architecture.marks == _KEYPOINT else build()
    if architecture.marks == _SSDLITE:
        _widen_tail(model, tensors, columns)
    is_frozen = not any(name.endswith(".num_batches_tracked") for name in tensors)
    if is_frozen and architecture.frozen_eps is not None:
        _set_eps(model, architecture.frozen_eps)
    return model


def _widen_tail(model: Any, tensors: Mapping[str, Tensor], columns: int) -> None:
    """Give an SSDlite the whole MobileNet, if that is what its weights are of.

    The builder halves the channels of MobileNet's last stage unless it downloads weights for it.
    """
    first = tensors.get("backbone.extra.0.0.0.weight")
    if first is None or first.shape[1] == model.backbone.extra[0][0][0].in_channels:
        return
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    stages = mobilenet_v3_large(weights=None, norm_layer=norm).features
    c4 = [i for i, stage in enumerate(stages) if getattr(stage, "_is_cn", False)][-1]
    model.backbone = SSDLiteFeatureExtractorMobileNet(stages, c4, norm)
    channels = retrieve_out_channels(model.backbone, (320, 320))
    model.head = SSDLiteHead(channels, model.anchor_generator.num_anchors_per_location(), columns, norm)


def _set_eps(model: Any, eps: float) -> None:
    """Set the eps of the backbone's batch normalisation, which no state dict holds."""
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], complaint: str) -> None:
    """Load the weights, after a check that says in a line what does not fit."""
    own = model.state_dict()
    missing = [n for n in own if n not in tensors and not n.endswith(".num_batches_tracked")]
    unknown = [name for name in tensors if name not in own]
    reshaped = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if missing or unknown or reshaped:
        found = [
            f"{len(names)} tensors {what}, the first {names[0]!r}"
            for names, what in ((missing, "missing"), (unknown, "unknown"))
            if names
        ]
        found += [
            f"{name!r} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}" for name in reshaped[:1]
        ]
        raise CheckpointError(f"{complaint}: {'; '.join(found)}{_hint(tensors)}")
    model.load_state_dict(dict(tensors), strict=False)

"""YOLOv4 and YOLOv4-tiny in bubbliiiing's layout: state dicts without that repository, and live models.

Predictions are those of its `detect_image` with the settings it ships: the picture stretched over 416x416 by
Pillow's bicubic filter, score = objectness · class, suppression per class at .3. Boxes may leave the picture
there; here they are clipped to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detcam.adapters.anchor_grid import AnchorGridDetector, AnchorHead
from detcam.adapters.base import LoadOptions
from detcam.adapters.class_names import class_names_for, classes_in
from detcam.adapters.decoding import exponential_anchor_boxes
from detcam.adapters.preparation import Stretched, bicubic_pillow
from detcam.adapters.stages import LayerTable
from detcam.adapters.weights import check_weights_are_finite, said_by
from detcam.adapters.yolov4_network import Yolov4Network, Yolov4TinyNetwork
from detcam.checkpoints import ModelFile
from detcam.errors import CheckpointError, InputError, UnsupportedModelError
from detcam.scoring import ObjectTimesClass
from detcam.structures import LayerSet, Origin

_OWN_IOU = 0.3
_SIDE, _COARSEST = 416, 32


@dataclass(frozen=True)
class _Form:
    """What the two networks differ in.

    Attributes:
        family: for people.
        network: builds it.
        mark: a tensor of the backbone that the other form has not.
        heads: names of the head's levels -> stride, finest first.
        anchors: (width, height) in pixels of a 416x416 input, as in the repository's `yolo_anchors.txt`.
        masks: which of the anchors each level has.
        parts: see `LayerTable`; so is `members`.
    """

    family: str
    network: type[Yolov4Network] | type[Yolov4TinyNetwork]
    mark: str
    heads: Mapping[str, int]
    anchors: tuple[tuple[float, float], ...]
    masks: tuple[slice, ...]
    parts: Mapping[str, LayerSet]
    members: Mapping[str, LayerSet]


def _parts(backbone: tuple[str, ...], neck: tuple[str, ...], heads: tuple[str, ...]) -> dict[str, LayerSet]:
    parts: dict[str, LayerSet] = {f"backbone.{name}": "backbone" for name in backbone}
    parts |= dict.fromkeys(neck, "neck")
    # Of a head's two convolutions the first is what the last one, the raw map, reads.
    return parts | dict.fromkeys([f"{name}.{i}" for name in heads for i in range(2)], "head")


_FULL = _Form(
    family="YOLOv4 (bubbliiiing)",
    network=Yolov4Network,
    mark="backbone.stages.0.downsample_conv.conv.weight",
    heads={"yolo_head3": 8, "yolo_head2": 16, "yolo_head1": 32},
    anchors=(
        *((12, 16), (19, 36), (40, 28)),
        *((36, 75), (76, 55), (72, 146)),
        *((142, 110), (192, 243), (459, 401)),
    ),
    masks=(slice(0, 3), slice(3, 6), slice(6, 9)),
    parts=_parts(
        ("conv1", "stages.0", "stages.1", "stages.2", "stages.3", "stages.4"),
        (
            *("conv1", "SPP", "conv2", "upsample1", "conv_for_P4", "make_five_conv1"),
            *("upsample2", "conv_for_P3", "make_five_conv2", "down_sample1", "make_five_conv3"),
            *("down_sample2", "make_five_conv4"),
        ),
        ("yolo_head3", "yolo_head2", "yolo_head1"),
    ),
    members={
        **dict.fromkeys((f"backbone.stages.{i}" for i in (2, 3, 4)), "backbone"),
        **dict.fromkeys((f"make_five_conv{i}" for i in (2, 3, 4)), "neck"),
        **dict.fromkeys((f"yolo_head{i}.0" for i in (3, 2, 1)), "head"),
    },
)
_TINY = _Form(
    family="YOLOv4-tiny (bubbliiiing)",
    network=Yolov4TinyNetwork,
    mark="backbone.resblock_body1.conv1.conv.weight",
    heads={"yolo_headP4": 16, "yolo_headP5": 32},
    anchors=((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319)),
    masks=(slice(1, 4), slice(3, 6)),
    parts=_parts(
        # A stage gives two tensors; the last convolution in it gives the feature.
        ("conv1", "conv2", *(f"resblock_body{i}.conv4" for i in (1, 2, 3)), "conv3"),
        ("conv_for_P5", "upsample"),
        ("yolo_headP5", "yolo_headP4"),
    ),
    members={
        **dict.fromkeys(("backbone.resblock_body3.conv4", "backbone.conv3"), "backbone"),
        **dict.fromkeys(("conv_for_P5", "upsample"), "neck"),
        **dict.fromkeys(("yolo_headP5.0", "yolo_headP4.0"), "head"),
    },
)
_FORMS = (_FULL, _TINY)


def recognises(model: nn.Module) -> bool:
    """Whether a live model has the modules of one of the two networks, under the same names."""
    return _form_of_model(model) is not None


def wrap(model: nn.Module, options: LoadOptions, origin: Origin | None = None) -> AnchorGridDetector:
    """A detector around a live network.

    Args:
        model: bubbliiiing's `YoloBody`, or one loaded here.
        options: `names` and `num_classes`; `anchors` as in the repository's `yolo_anchors.txt`: nine, three
            for each level from fine to coarse, or the tiny form's six, of which the finer level has the
            second to fourth and the coarser one the last three. Without them the COCO ones it ships.
        origin: the file it came from.

    Raises:
        UnsupportedModelError: it is no such network.
        InputError: anchors, names or number of classes do not fit the weights.
    """
    form = _form_of_model(model)
    if form is None:
        raise UnsupportedModelError(f"a {type(model).__name__} is no YOLOv4 in bubbliiiing's layout")
    anchors = _anchors(form, options)
    counts = {name: _classes(model, name) for name in form.heads}
    if len(set(counts.values())) > 1:
        raise InputError(f"the levels of the head score different numbers of classes: {counts}")
    return AnchorGridDetector(
        model=model,
        family=form.family,
        heads=tuple(
            AnchorHead(f"{name}.1", stride, anchors[mask], exponential_anchor_boxes)
            for (name, stride), mask in zip(form.heads.items(), form.masks, strict=True)
        ),
        class_names=class_names_for(next(iter(counts.values())), None, options),
        preparation=Stretched(_COARSEST, bicubic_pillow),
        scoring=ObjectTimesClass(),
        own_iou=_OWN_IOU,
        table=LayerTable(form.parts, tuple(f"{name}.0" for name in form.heads), form.members),
        imgsz=_SIDE,
        origin=origin,
    )


def reads(file: ModelFile, options: LoadOptions) -> bool:
    """Whether a file holds a state dict with the backbone and the heads of one of the two networks."""
    return _form_of_tensors(file.tensors or {}) is not None


def load(file: ModelFile, options: LoadOptions) -> AnchorGridDetector:
    """A detector from a state dict; the network is built to fit it.

    Raises:
        CheckpointError: the tensors are not those of one whole network, or hold NaN.
        InputError: see `wrap`.
    """
    tensors = file.tensors or {}
    form = _form_of_tensors(tensors)
    if form is None:
        raise CheckpointError(f"{file.path} holds no YOLOv4 in bubbliiiing's layout")
    model = _network(file, form, tensors)
    check_weights_are_finite(model, file.path)
    return wrap(model, options, Origin(str(file.path), file.sha256, trust="safe"))


def _form_of_model(model: nn.Module) -> _Form | None:
    names = {name for name, _ in model.named_modules()}
    return next((form for form in _FORMS if names.issuperset(form.parts)), None)


def _form_of_tensors(tensors: Mapping[str, Tensor]) -> _Form | None:
    for form in _FORMS:
        if all(name in tensors for name in (form.mark, *(f"{head}.1.weight" for head in form.heads))):
            return form
    return None


def _anchors(form: _Form, options: LoadOptions) -> tuple[tuple[float, float], ...]:
    if options.anchors is None:
        return form.anchors
    if len(options.anchors) != len(form.anchors):
        raise InputError(
            f"{form.family} takes {len(form.anchors)} anchors, as in its yolo_anchors.txt, "
            f"got {len(options.anchors)}"
        )
    return options.anchors


def _classes(model: nn.Module, head: str) -> int:
    convolution = model.get_submodule(f"{head}.1")
    if not isinstance(convolution, nn.Conv2d):
        raise UnsupportedModelError(f"{head}.1 is a {type(convolution).__name__}, not a convolution")
    return classes_in(convolution.out_channels, anchors=3)


def _network(file: ModelFile, form: _Form, tensors: Mapping[str, Tensor]) -> nn.Module:
    try:
        model = form.network(tensors).eval()
        model.load_state_dict(
            {name: tensor.float() if tensor.ndim else tensor for name, tensor in tensors.items()}, assign=True
        )
        with torch.no_grad():
            model(torch.zeros(1, 3, _COARSEST, _COARSEST))
    except KeyError as error:
        raise CheckpointError(f"{file.path} is no whole {form.family}: it lacks {error}") from error
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{file.path} does not fit {form.family}: {said_by(error)}. For a network that was changed "
            "(also one with attention, phi 1 to 4) give the live model to detcam.wrap"
        ) from error
    return model

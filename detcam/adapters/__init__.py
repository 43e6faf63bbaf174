"""One file per detector family: the only place that knows a vendor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from detcam.adapters import (
    darknet,
    ultralytics_checkpoint,
    yolov4_torch,
    yolov5,
    yolov5_checkpoint,
    yolov6,
    yolov9,
    yolox,
)
from detcam.adapters.base import Branch, DetectOptions, Detector, Family, LoadOptions, device_of
from detcam.adapters.choosing import chosen_layers
from detcam.adapters.generic import wrap_generic
from detcam.adapters.heads import Head, HeadOutput
from detcam.adapters.huggingface import HuggingFaceDetector
from detcam.adapters.inspecting import FileDescription, describe_file
from detcam.adapters.options import PERMISSIONS, check_used, options_of
from detcam.adapters.rehearsal import rehearse
from detcam.adapters.torchvision_loading import (
    load_torchvision,
    reads_torchvision,
    recognises_torchvision,
    wrap_torchvision,
)
from detcam.adapters.ultralytics import UltralyticsDetector
from detcam.adapters.ultralytics_classify import ClassifyDetector
from detcam.adapters.ultralytics_rtdetr import RTDETRDetector
from detcam.checkpoints import ModelFile, open_model_file
from detcam.errors import CheckpointError, InputError, UnsupportedModelError

__all__ = [
    "ADAPTERS",
    "Branch",
    "DetectOptions",
    "Detector",
    "Family",
    "FileDescription",
    "Head",
    "HeadOutput",
    "LoadOptions",
    "UltralyticsDetector",
    "chosen_layers",
    "device_of",
    "inspect",
    "load",
    "rehearse",
    "wrap",
]

_MOST_WRAPPERS = 10

# The first family that knows a model or file takes it.
ADAPTERS: dict[str, Family] = {
    # Before ultralytics: heads with one branch look alike, and this one looks twice.
    "yolov9": Family(
        "YOLOv9 and GELAN of WongKinYiu, live: heads with one, two or three branches",
        recognises=yolov9.recognises,
        wrap=yolov9.wrap,
    ),
    # Before ultralytics, which takes any file of that vendor.
    "rt-detr": Family(
        "RT-DETR of ultralytics 8.3 and newer: queries",
        recognises=RTDETRDetector.recognises,
        wrap=RTDETRDetector,
        reads=RTDETRDetector.reads,
        load=RTDETRDetector.load,
        resolve=ultralytics_checkpoint.resolve,
    ),
    "classify": Family(
        "classifiers of ultralytics 8.3 and newer: the picture under its classes",
        recognises=ClassifyDetector.recognises,
        wrap=ClassifyDetector,
        reads=ClassifyDetector.reads,
        load=ClassifyDetector.load,
        resolve=ultralytics_checkpoint.resolve,
    ),
    "ultralytics": Family(
        "ultralytics 8.3 and newer: YOLOv3 to YOLO26, World and YOLOE, boxes of every task",
        recognises=UltralyticsDetector.recognises,
        wrap=UltralyticsDetector,
        reads=UltralyticsDetector.reads,
        load=UltralyticsDetector.load,
        resolve=ultralytics_checkpoint.resolve,
        uses=frozenset({"branch", "names", "num_classes"}),
    ),
    "yolov6": Family(
        "YOLOv6 of Meituan, releases 3 and 4, live",
        recognises=yolov6.recognises,
        wrap=yolov6.wrap,
    ),
    "yolox": Family(
        "YOLOX of Megvii, nano to x: live, and state dicts (.pth)",
        recognises=yolox.recognises,
        wrap=yolox.wrap,
        reads=yolox.reads,
        load=yolox.load,
    ),
    "yolov5": Family(
        "YOLOv5, YOLOv3 and YOLOv7 of their own repositories: live, and their checkpoints (.pt)",
        recognises=yolov5.recognises,
        wrap=yolov5.wrap,
        reads=yolov5.reads,
        load=yolov5.load,
        resolve=yolov5_checkpoint.resolve,
    ),
    "darknet": Family(
        "Darknet's YOLOv3, v4, their tiny forms, Yolo-Fastest and relatives: .weights with --cfg",
        recognises=darknet.recognises,
        wrap=darknet.wrap,
        reads=darknet.reads,
        load=darknet.load,
        file_uses=frozenset({"cfg"}),
    ),
    "yolov4": Family(
        "YOLOv4 and YOLOv4-tiny in bubbliiiing's layout: live, and state dicts (.pth)",
        recognises=yolov4_torch.recognises,
        wrap=yolov4_torch.wrap,
        reads=yolov4_torch.reads,
        load=yolov4_torch.load,
        uses=frozenset({"anchors", "names", "num_classes"}),
    ),
    "torchvision": Family(
        "torchvision's Faster, Mask and Keypoint R-CNN, RetinaNet, FCOS, SSD: live, and state dicts (--arch)",
        recognises=recognises_torchvision,
        wrap=wrap_torchvision,
        reads=reads_torchvision,
        load=load_torchvision,
        file_uses=frozenset({"arch"}),
    ),
    "transformers": Family(
        "DETR, RT-DETR, RT-DETRv2 and YOLOS of HuggingFace transformers, live: queries",
        recognises=HuggingFaceDetector.recognises,
        wrap=HuggingFaceDetector,
    ),
}


def wrap(model: nn.Module, *, head: Any = None, **options: Any) -> Detector:
    """A detector around a live model; the model is not copied, and never changed beyond a call.

    Args:
        model: a network of a family in `ADAPTERS`, also inside `DataParallel` or a vendor's wrapper; any
            network if `head` is given.
        head: for a network of no known family: an object with `strides` and `forward` (see `Head`), names of
            the modules whose outputs are the head's tensors, or a callable from a batch to these.
        **options: fields of `LoadOptions`: what the model itself does not say; with `head`, those of
            `GenericOptions` and `TensorOptions`. docs/adapters.md shows both.

    Raises:
        UnsupportedModelError: no adapter understands it.
        AmbiguousHeadError: the head's tensors can be read in several ways.
        InputError: an option that cannot be used, or that the family does not use.
    """
    if head is not None:
        return wrap_generic(model, head, options)
    wanted = options_of(options)
    for candidate in _inside(model):
        for name, family in ADAPTERS.items():
            if family.recognises(candidate):
                check_used(wanted, name, family.uses, ADAPTERS)
                return family.wrap(candidate, wanted)
    raise UnsupportedModelError(
        f"no adapter understands a {type(model).__name__}: it reads models of {', '.join(ADAPTERS)}. "
        "For any other: detcam.wrap(model, head=…)"
    )


def inspect(path: str | os.PathLike[str]) -> FileDescription:
    """What a model file is, without running or building anything of it.

    Raises:
        CheckpointError: there is no such file, or it holds no model.
    """
    return describe_file(path, ADAPTERS)


def load(
    path: str | os.PathLike[str], *, device: str | torch.device | None = None, **options: Any
) -> Detector:
    """A detector from a file. Nothing in the file runs, nothing is downloaded or installed.

    Args:
        path: a checkpoint of one of the families in `ADAPTERS`.
        device: "cpu", "cuda:1", "1" …; None takes the first GPU if there is one.
        **options: fields of `LoadOptions`: what the file does not say, and what it may do.

    Raises:
        CheckpointError: the file cannot be read, or holds no detector.
        UnsafeCheckpointError: the file would have to run code that nobody allowed.
        UnsupportedModelError: there is no way yet to explain such a network.
        InputError: no such device, or an option that does not fit or that the family does not use.
    """
    place, wanted = _device(device), options_of(options)
    file = open_model_file(path)
    for name, family in ADAPTERS.items():
        if family.reads is not None and family.load is not None and family.reads(file, wanted):
            check_used(wanted, name, family.uses | family.file_uses | PERMISSIONS, ADAPTERS)
            detector = family.load(file, wanted)
            detector.model.to(place)
            return detector
    raise _unread(file)


def _unread(file: ModelFile) -> CheckpointError:
    """The error for a file that no family takes, with what is in it."""
    if file.tensors:
        first = next(iter(file.tensors))
        what = f"weights without a model ({len(file.tensors)} tensors, the first {first!r})"
    else:
        what = f"no model of a known family (it names {', '.join(file.globals[:5]) or 'nothing'})"
    read = ", ".join(name for name, family in ADAPTERS.items() if family.reads is not None)
    return CheckpointError(f"{file.path} holds {what}. Families that are read: {read}")


def _inside(model: nn.Module) -> Iterator[nn.Module]:
    """The model and what it wraps, outermost first."""
    inner: object = model
    seen: set[int] = set()
    # A property may give the model itself, or a new one each time.
    while isinstance(inner, nn.Module) and id(inner) not in seen and len(seen) < _MOST_WRAPPERS:
        seen.add(id(inner))
        yield inner
        inner = getattr(inner, "module", None) or getattr(inner, "model", None)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    name = f"cuda:{device}" if str(device).isdigit() else str(device)
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"no device {str(device)!r} here: {str(error).splitlines()[0]}. Try --device cpu"
        ) from error
    return torch.device(name)

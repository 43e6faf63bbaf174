"""What every detector family must offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detcam.checkpoints import ModelFile
from detcam.errors import InputError
from detcam.geometry import Letterbox
from detcam.structures import Detections, Layer, Origin, RawPrediction


@dataclass(frozen=True)
class DetectOptions:
    """Which candidates become detections; names and defaults as in ultralytics' predict.

    Attributes:
        conf: lowest score, 0..1, exclusive.
        iou: overlap from which the weaker of two boxes of one class is suppressed, 0..1; None for what the
            detector's own predict takes.
        classes: class ids wanted, or None for all.
        max_det: detections kept per picture.
    """

    conf: float = 0.25
    iou: float | None = None
    classes: tuple[int, ...] | None = None
    max_det: int = 300

    def __post_init__(self) -> None:
        for name in ("conf", "iou"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} must lie in 0..1, got {value}")


class Detector(Protocol):
    """A detector of some family, seen the same way by everything above.

    Attributes:
        model: the network; never changed beyond the time of a call.
        family: what it is, for people: "ultralytics Detect".
        class_names: class id -> name, for every class the head scores.
        imgsz: side of the square the input fits into by default, in pixels.
        strides: of the head's levels, finest first.
        origin: the file it was loaded from, or None for a live model.
    """

    model: nn.Module
    family: str
    class_names: dict[int, str]
    imgsz: int
    strides: tuple[int, ...]
    origin: Origin | None

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """The network's input (3, H, W) of a picture (H, W, 3) uint8 RGB, as the vendor prepares it."""
        ...

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W), in the live graph; call inside `capture`."""
        ...

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        """The detections the vendor's own predict shows, best first."""
        ...

    def layers(self) -> Sequence[Layer]:
        """Every top-level layer, in order, with the set it belongs to."""
        ...


Branch = Literal["one2many", "one2one"]


@dataclass(frozen=True)
class LoadOptions:
    """What a user may say about a model that its file does not; each family takes what it needs.

    Attributes:
        branch: of a head with two, the one to explain; None follows the model.
        allow_globals: names in the file that may be imported.
        unsafe: let the file run whatever it likes.
        cfg: Darknet's description of the network.
        names: class names, in order of their ids; None where the file has them.
        num_classes: to settle or to check what the weights say.
        anchors: (w, h) in input pixels, in the order of the head's levels and anchors.
        arch: a torchvision builder, such as "fasterrcnn_resnet50_fpn_v2".
        layout: name of a tensor layout, for heads that only show tensors.
    """

    branch: Branch | None = None
    allow_globals: tuple[str, ...] = ()
    unsafe: bool = False
    cfg: Path | None = None
    names: tuple[str, ...] | None = None
    num_classes: int | None = None
    anchors: tuple[tuple[float, float], ...] | None = None
    arch: str | None = None
    layout: str | None = None


@dataclass(frozen=True)
class Family:
    """An entry of `ADAPTERS`: how models of a family are known, wrapped and loaded.

    Attributes:
        summary: for people, in one line.
        recognises: whether a live model is of this family.
        wrap: makes the detector around a live model.
        reads: whether a file is of this family, by its names, tensors and the options; nothing in it runs.
        load: makes the detector from such a file, on the CPU.
        resolve: the class that stands for a dotted name in such a file, or None; for `detcam inspect`.
    """

    summary: str
    recognises: Callable[[nn.Module], bool]
    wrap: Callable[[nn.Module, LoadOptions], Detector]
    reads: Callable[[ModelFile, LoadOptions], bool] | None = None
    load: Callable[[ModelFile, LoadOptions], Detector] | None = None
    resolve: Callable[[str], type | None] | None = None


def device_of(model: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(model.parameters()).device

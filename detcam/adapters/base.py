"""What every detector family must offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from detcam.adapters.told_names import ordered_names
from detcam.checkpoints import ModelFile
from detcam.errors import InputError, UnknownNameError
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
        """The network's input (3, H, W) of a picture (H, W, 3) uint8 RGB, as the vendor prepares it.

        Args:
            pixels: the picture.
            imgsz: side of the square, or (H, W), that the input fits into or fills, as the vendor does: a
                letterboxing detector runs the smallest rectangle in it also if both sides are given.
        """
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
    """What a user may say about a model that its file does not; `Family` says who uses what.

    Attributes:
        branch: of a head with two, the one to explain; None follows the model.
        allow_globals: names in the file that may be imported.
        unsafe: let the file run whatever it likes.
        cfg: Darknet's description of the network.
        names: class names, in order of their ids, or by their ids; None where the file has them.
        num_classes: to settle or to check what the weights say.
        anchors: (w, h) in input pixels, in the order of the head's levels and anchors.
        arch: a torchvision builder, such as "fasterrcnn_resnet50_fpn_v2".
        layout: name of a tensor layout, for heads that only show tensors.

    Raises:
        InputError: a value that cannot be used for any model.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", ordered_names(self.names))
        check_count(self.num_classes)
        if self.branch not in (None, *get_args(Branch)):
            raise UnknownNameError("branch", str(self.branch), get_args(Branch))


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
        uses: fields of `LoadOptions` that it uses; any other that was given is an error.
        file_uses: those that it uses of files besides.
    """

    summary: str
    recognises: Callable[[nn.Module], bool]
    wrap: Callable[[nn.Module, LoadOptions], Detector]
    reads: Callable[[ModelFile, LoadOptions], bool] | None = None
    load: Callable[[ModelFile, LoadOptions], Detector] | None = None
    resolve: Callable[[str], type | None] | None = None
    uses: frozenset[str] = frozenset({"names", "num_classes"})
    file_uses: frozenset[str] = frozenset()


def check_count(num_classes: object) -> None:
    """Check a class count that somebody gave.

    Raises:
        InputError: it is no whole number, or less than 1.
    """
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise InputError(f"num_classes must be a whole number of at least 1, got {num_classes!r}")


def device_of(model: nn.Module) -> torch.device:
    """Where a network's weights are, or its buffers; the CPU for one without any."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device

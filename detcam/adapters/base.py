"""What every detector family must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detcam.errors import InputError
from detcam.geometry import Letterbox
from detcam.structures import Detections, Layer, Origin, RawPrediction


@dataclass(frozen=True)
class DetectOptions:
    """Which candidates become detections; names and defaults as in ultralytics' predict.

    Attributes:
        conf: lowest score, 0..1, exclusive.
        iou: overlap from which the weaker of two boxes of one class is suppressed, 0..1.
        classes: class ids wanted, or None for all.
        max_det: detections kept per picture.
    """

    conf: float = 0.25
    iou: float = 0.7
    classes: tuple[int, ...] | None = None
    max_det: int = 300

    def __post_init__(self) -> None:
        for name in ("conf", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in 0..1, got {getattr(self, name)}")


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


def device_of(detector: Detector) -> torch.device:
    """Where the network's weights are."""
    return next(detector.model.parameters()).device

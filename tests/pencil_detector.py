"""A detector whose every number a test writes down: a convolution, and a head as given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detcam.geometry import Letterbox
from detcam.scoring import SIGMOID, ObjectTimesClass, Scoring
from detcam.structures import Layer, Level, Location, RawPrediction

HEIGHT, WIDTH = 61, 97  # primes, so that a swapped H/W cannot hide
INPUT = (64, 96)  # of such a picture
LEVELS = (Level("P4", 16, (4, 6), 2), Level("P5", 32, (2, 3), 2))


@dataclass
class PencilDetector:
    """Gives the logits it was made of, in the rows that `row_order` says."""

    class_logits: Tensor
    objectness_logits: Tensor | None = None
    levels: tuple[Level, ...] = LEVELS
    scoring: Scoring = SIGMOID
    row_order: Any = "yxa"
    located: Callable[[int], Location] | None = None
    bgr: bool = False
    model: nn.Module = field(default_factory=lambda: nn.Sequential(nn.Conv2d(3, 2, 1)))
    class_names: dict[int, str] = field(default_factory=lambda: {0: "cat", 1: "dog", 2: "../fire hydrant"})
    family: str = "pencil"
    imgsz: int = 96
    strides: tuple[int, ...] = (16, 32)
    origin: None = None
    table: tuple[Layer, ...] = ()

    def prepare(self, pixels: np.ndarray, imgsz: Any) -> tuple[Tensor, Letterbox]:
        side = imgsz or self.imgsz
        geometry = Letterbox.fit(pixels.shape[:2], (side, side), 32)
        values = geometry.apply(pixels)[..., :: -1 if self.bgr else 1]
        return torch.from_numpy(values.copy()).permute(2, 0, 1).float() / 255, geometry

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        self.model(batch)
        return [
            RawPrediction(
                self.class_logits,
                self.levels,
                boxes=lambda rows: torch.zeros(len(rows), 4),
                objectness_logits=self.objectness_logits,
                scoring=self.scoring,
                row_order=self.row_order,
                located=self.located,
            )
        ]

    def detect(self, *_: Any) -> Any:
        raise AssertionError("nothing here asks for detections")

    def layers(self) -> tuple[Layer, ...]:
        return self.table


def seeded(row_order: str = "yxa", classes: int = 3, objectness: bool = True) -> PencilDetector:
    """Random logits of both signs."""
    generator = torch.Generator().manual_seed(0)
    rows = sum(level.rows for level in LEVELS)
    return PencilDetector(
        torch.randn(rows, classes, generator=generator) * 3,
        torch.randn(rows, generator=generator) * 3 if objectness else None,
        scoring=ObjectTimesClass() if objectness else SIGMOID,
        row_order=row_order,
    )


def photograph() -> np.ndarray:
    """Noise, (H, W, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)

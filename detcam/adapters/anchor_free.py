"""Detectors whose last convolutions score every cell of a grid once: YOLOX, YOLOv6 and YOLOv9.

Whoever built the network, each level ends in one map of class logits and one of box values, and in some an
objectness. What differs is data: which modules give them, and how boxes are made of the values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detcam.adapters.base import DetectOptions, device_of
from detcam.adapters.decoding import boxes_around, cell_centres, expected_distances
from detcam.adapters.preparation import Preparation
from detcam.adapters.stages import LayerTable
from detcam.adapters.suppression import Chosen, upright_detections
from detcam.cam.capture import observe
from detcam.errors import CaptureError
from detcam.geometry import Letterbox
from detcam.scoring import SIGMOID, Scoring
from detcam.structures import Detections, Layer, Level, Origin, RawPrediction, level_name

Suppression = Callable[[RawPrediction, DetectOptions], Chosen]
"""Which candidates become detections."""


class BoxDecoding(Protocol):
    """From box values to boxes."""

    def __call__(self, values: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
        """Boxes (n, 4) xyxy in pixels.

        Args:
            values: (n, V) what the box convolution gave.
            centres: (n, 2) centres of the candidates' cells as (x, y), in cells.
            strides: (n, 1) pixels per cell.
        """
        ...


@dataclass(frozen=True)
class EdgeDistances:
    """YOLOv6, v8 and v9: distances from the cell's centre to the edges, as `expected_distances`.

    Attributes:
        bins: values of each distribution; 1 where the values are the distances.
    """

    bins: int

    def __call__(self, values: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
        """See `BoxDecoding`."""
        return boxes_around(centres, expected_distances(values, self.bins)) * strides


@dataclass(frozen=True)
class AnchorFreeHead:
    """One level of a head; modules by their dotted names.

    Attributes:
        stride: network-input pixels per cell.
        classes: the module that gives the class logits (B, K, h, w).
        boxes: the one that gives the box values (B, V, h, w).
        objectness: the one that gives the objectness logit (B, 1, h, w), or None.
    """

    stride: int
    classes: str
    boxes: str
    objectness: str | None = None

    @property
    def outputs(self) -> dict[str, str]:
        """What is read -> the module that gives it."""
        named = {"classes": self.classes, "boxes": self.boxes, "objectness": self.objectness}
        return {what: name for what, name in named.items() if name is not None}


@dataclass(eq=False)
class AnchorFreeDetector:
    """A detector with one candidate per cell; see `Detector`.

    Attributes:
        model: the network; called with (B, 3, H, W) alone.
        family: for people.
        heads: the levels, finest first.
        class_names: class id -> name, for all K classes.
        preparation: how pictures become inputs.
        decode: makes boxes of the box values.
        select: how the vendor's own predict chooses detections.
        table: the layers.
        scoring: how logits become scores.
        imgsz: side of the square the input fits into by default, in pixels.
        origin: the file it was loaded from, or None.
        guard: a context that keeps what calling `model` changes in it, beside what `borrowed` keeps.
    """

    model: nn.Module
    family: str
    heads: tuple[AnchorFreeHead, ...]
    class_names: dict[int, str]
    preparation: Preparation
    decode: BoxDecoding
    select: Suppression
    table: LayerTable
    scoring: Scoring = SIGMOID
    imgsz: int = 640
    origin: Origin | None = None
    guard: Callable[[], AbstractContextManager[object]] = nullcontext
    strides: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.strides = tuple(head.stride for head in self.heads)

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """The network's input (3, H, W) of a picture (H, W, 3) uint8 RGB, as the vendor prepares it."""
        return self.preparation(pixels, self.imgsz if imgsz is None else imgsz, device_of(self.model))

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W).

        Raises:
            CaptureError: a map has another shape than the head's, or holds values that are no numbers.
        """
        modules = {
            name: self.model.get_submodule(name) for head in self.heads for name in head.outputs.values()
        }
        with self.guard(), observe(modules) as seen:
            self.model(batch)
        maps = [
            {what: _checked(name, seen.get(name)) for what, name in h.outputs.items()} for h in self.heads
        ]
        self._check_classes(maps)
        rows = {what: _rows([level[what] for level in maps]) for what in self.heads[0].outputs}
        levels = tuple(
            Level(level_name(head.stride), head.stride, (m.shape[2], m.shape[3]))
            for head, m in zip(self.heads, (level["classes"] for level in maps), strict=True)
        )
        return [
            self._raw({what: values[b] for what, values in rows.items()}, levels) for b in range(len(batch))
        ]

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        """The detections the vendor's own predict shows, best first."""
        return upright_detections(raw, self.select(raw, options), geometry, options)

    def layers(self) -> Sequence[Layer]:
        """Every layer of `table`; strides and channels come of a small forward pass, made once."""
        return self._layers

    @cached_property
    def _layers(self) -> list[Layer]:
        return self.table.measured(self.model, self.strides, self.guard)

    def _check_classes(self, maps: Sequence[Mapping[str, Tensor]]) -> None:
        for head, level in zip(self.heads, maps, strict=True):
            if level["classes"].shape[1] != len(self.class_names):
                raise CaptureError(
                    f"{head.classes} gave {tuple(level['classes'].shape)}, "
                    f"not (B, {len(self.class_names)}, h, w): this kind of head is not supported"
                )

    def _raw(self, rows: Mapping[str, Tensor], levels: tuple[Level, ...]) -> RawPrediction:
        """`rows` are one picture's (N, channels) of each output."""
        centres, strides = cell_centres(levels, rows["boxes"].device)
        return RawPrediction(
            class_logits=rows["classes"],
            levels=levels,
            boxes=lambda indices: self.decode(rows["boxes"][indices], centres[indices], strides[indices]),
            objectness_logits=rows["objectness"][:, 0] if "objectness" in rows else None,
            scoring=self.scoring,
        )


def output_channels(convolution: nn.Module) -> int:
    """Channels that a head's last convolution gives, read from its weights."""
    weight = convolution.get_parameter("weight")
    return int(weight.shape[0])


def _checked(name: str, found: object) -> Tensor:
    if not isinstance(found, Tensor) or found.ndim != 4:
        what = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise CaptureError(f"{name} gave {what}, not (B, C, h, w): this kind of head is not supported")
    if not found.isfinite().all():
        raise CaptureError("the network's output holds NaN or infinity: check its weights")
    return found


def _rows(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, h, w) of all levels as candidates (B, N, C): level by level, rows, then columns."""
    return torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)

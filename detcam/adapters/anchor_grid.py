"""Detectors whose last convolutions give every cell of a grid some anchors: YOLOv3, v4, v5 and v7.

Whoever built the network, the maps (B, A·(5 + K), h, w) look alike: per anchor four box values, an
objectness and K classes. What differs is data: where the maps are, the anchors, how boxes are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detcam.adapters.base import DetectOptions, device_of
from detcam.adapters.preparation import Preparation
from detcam.adapters.stages import LayerTable
from detcam.adapters.suppression import suppress, upright_detections
from detcam.cam.capture import observe
from detcam.errors import CaptureError
from detcam.geometry import Letterbox
from detcam.scoring import Scoring
from detcam.structures import Detections, Layer, Level, Origin, RawPrediction, level_name

_EDGES, _OBJECTNESS, _FIRST_CLASS = slice(0, 4), 4, 5


class AnchorDecoding(Protocol):
    """From box values to boxes; see `squared_anchor_boxes` and `exponential_anchor_boxes`."""

    def __call__(self, offsets: Tensor, cells: Tensor, anchors: Tensor, stride: int) -> Tensor:
        """Boxes (n, 4) xyxy in pixels of values (n, 4), cells (n, 2) and anchors (n, 2) in pixels."""
        ...


@dataclass(frozen=True)
class AnchorHead:
    """One level of the head.

    Attributes:
        layer: dotted name of the module whose output is the raw map (B, A·(5 + K + extra), h, w).
        stride: network-input pixels per cell.
        anchors: (width, height) in network-input pixels, in the order of the map's channels.
        decode: makes boxes of the map's first four values.
        extra: values of each box behind the classes, such as mask coefficients; not looked at.
    """

    layer: str
    stride: int
    anchors: tuple[tuple[float, float], ...]
    decode: AnchorDecoding
    extra: int = 0


@dataclass(eq=False)
class AnchorGridDetector:
    """A detector with anchors on grids; see `Detector`.

    Attributes:
        model: the network; called with (B, 3, H, W) alone.
        family: for people.
        heads: the levels, in any order.
        class_names: class id -> name, for all K classes.
        preparation: how pictures become inputs.
        scoring: how logits become scores.
        own_iou: the overlap that the vendor's own predict suppresses from.
        table: the layers.
        imgsz: side of the square the input fits into by default, in pixels.
        origin: the file it was loaded from, or None.
        guard: a context that keeps what calling `model` changes in it beside what `borrowed` keeps.
        strides: of the levels, finest first.
    """

    model: nn.Module
    family: str
    heads: tuple[AnchorHead, ...]
    class_names: dict[int, str]
    preparation: Preparation
    scoring: Scoring
    own_iou: float
    table: LayerTable
    imgsz: int
    origin: Origin | None = None
    guard: Callable[[], AbstractContextManager[object]] = nullcontext
    strides: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.heads = tuple(sorted(self.heads, key=lambda head: head.stride))
        self.strides = tuple(head.stride for head in self.heads)

    def prepare(self, pixels: np.ndarray, imgsz: int | tuple[int, int] | None) -> tuple[Tensor, Letterbox]:
        """The network's input (3, H, W) of a picture (H, W, 3) uint8 RGB, as the vendor prepares it."""
        device = device_of(self.model)
        return self.preparation(pixels, self.imgsz if imgsz is None else imgsz, device)

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W).

        Raises:
            CaptureError: a map has another shape than the head's, or holds values that are no numbers.
        """
        modules = {head.layer: self.model.get_submodule(head.layer) for head in self.heads}
        with self.guard(), observe(modules) as seen:
            self.model(batch)
        maps = [self._checked(head, seen.get(head.layer)) for head in self.heads]
        levels = tuple(
            Level(level_name(head.stride), head.stride, (m.shape[2], m.shape[3]), len(head.anchors))
            for head, m in zip(self.heads, maps, strict=True)
        )
        rows = [_rows(m, level.anchors) for m, level in zip(maps, levels, strict=True)]
        return [self._raw([level_rows[b] for level_rows in rows], levels) for b in range(len(batch))]

    def detect(self, raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
        """The detections the vendor's own predict shows, best first."""
        return upright_detections(raw, suppress(raw, options, self.own_iou), geometry, options)

    def layers(self) -> Sequence[Layer]:
        """Every layer of the table; strides and channels come of a small forward pass, made once."""
        return self._layers

    @cached_property
    def _layers(self) -> list[Layer]:
        return self.table.measured(self.model, self.strides, self.guard)

    def _checked(self, head: AnchorHead, found: object) -> Tensor:
        channels = len(head.anchors) * (_FIRST_CLASS + len(self.class_names) + head.extra)
        if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[1] != channels:
            what = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise CaptureError(
                f"{head.layer} gave {what}, not (B, {channels}, h, w) for {len(head.anchors)} anchors and "
                f"{len(self.class_names)} classes: this kind of head is not supported"
            )
        if not found.isfinite().all():
            raise CaptureError("the network's output holds NaN or infinity: check its weights")
        return found

    def _raw(self, rows: list[Tensor], levels: tuple[Level, ...]) -> RawPrediction:
        """`rows` are one picture's candidates (A·h·w, 5 + K + extra), level by level."""
        classes = slice(_FIRST_CLASS, _FIRST_CLASS + len(self.class_names))
        return RawPrediction(
            class_logits=torch.cat([level_rows[:, classes] for level_rows in rows]),
            levels=levels,
            boxes=lambda indices: self._boxes(indices, rows, levels),
            objectness_logits=torch.cat([level_rows[:, _OBJECTNESS] for level_rows in rows]),
            scoring=self.scoring,
            row_order="ayx",
        )

    def _boxes(self, indices: Tensor, rows: list[Tensor], levels: tuple[Level, ...]) -> Tensor:
        """Boxes (n, 4) of candidates (n,); each level has its own anchors and may have its own decoding."""
        starts = accumulate((level.rows for level in levels), initial=0)
        boxes, places = [], []
        for head, level, level_rows, start in zip(self.heads, levels, rows, starts, strict=False):
            place = ((indices >= start) & (indices < start + level.rows)).nonzero().flatten()
            offset = indices[place] - start
            cell = offset % (level.grid[0] * level.grid[1])
            cells = torch.stack([cell % level.grid[1], cell // level.grid[1]], dim=1)
            anchors = level_rows.new_tensor(head.anchors)[offset // (level.grid[0] * level.grid[1])]
            boxes.append(head.decode(level_rows[offset, _EDGES], cells, anchors, head.stride))
            places.append(place)
        return torch.cat(boxes)[torch.cat(places).argsort()]


def _rows(raw_map: Tensor, anchors: int) -> Tensor:
    """A map (B, A·V, h, w) as candidates (B, A·h·w, V): anchors outermost, then rows, then columns."""
    batch, channels, height, width = raw_map.shape
    values = raw_map.reshape(batch, anchors, channels // anchors, height, width)
    return values.permute(0, 1, 3, 4, 2).flatten(1, 3)

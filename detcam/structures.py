"""What passes between the rooms: levels, raw predictions, detections.

Shape letters, everywhere the same: B images, N candidates, M detections, K classes, C channels,
h×w feature grid, H×W image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from detcam.errors import ShapeError
from detcam.scoring import SIGMOID, Scoring


def level_name(stride: int) -> str:
    """`P` and the binary logarithm of a stride, such as "P3"; "stride-100" where that is no whole number."""
    return f"stride-{stride}" if stride & (stride - 1) else f"P{stride.bit_length() - 1}"


@dataclass(frozen=True)
class Level:
    """One receptive-field level of a detection head.

    Attributes:
        name: as `level_name` gives it, such as "P3".
        stride: network-input pixels per cell.
        grid: (h, w) cells.
        anchors: candidates per cell.
    """

    name: str
    stride: int
    grid: tuple[int, int]
    anchors: int = 1

    @property
    def rows(self) -> int:
        """Candidates of this level."""
        return self.grid[0] * self.grid[1] * self.anchors


LayerSet = Literal["backbone", "neck", "head"]
"""backbone: the stages. neck: last layer before each head input. head: the head's inputs."""


@dataclass(frozen=True)
class Layer:
    """One layer of a detector that can be explained or looked at.

    Attributes:
        name: dotted `named_modules()` name.
        kind: class of the module.
        stride: network-input pixels per cell, or None if the output is no feature map.
        channels: channels of the output, or None.
        part: the part of the network it stands in: "backbone", "neck" or "head".
        member_of: the layer set it belongs to, or None.
        stage: "stem", "stage 1" …, if it is what one of the backbone's stages gives (`stage_names`), or None.
    """

    name: str
    kind: str
    stride: int | None
    channels: int | None
    part: LayerSet
    member_of: LayerSet | None = None
    stage: str | None = None

    @property
    def level(self) -> str | None:
        """Name of the level of this stride, or None where the output is no feature map."""
        return level_name(self.stride) if self.stride else None


def stage_names(table: Sequence[Layer]) -> list[str]:
    """The stem and the stages: the backbone's layer for each stride from the input's own on, finest first.

    At a stride of the head it is the one that `detcam.explain` takes; at any other the last of the backbone
    that does not stand inside a block of another stride.
    """
    backbone = [layer for layer in table if layer.part == "backbone" and layer.stride]
    blocks = {layer.name: layer for layer in backbone if layer.kind != "Sequential"}
    stages: dict[int, str] = {}
    for layer in backbone:
        parts = layer.name.split(".")
        around = [blocks.get(".".join(parts[:depth])) for depth in range(1, len(parts))]
        if layer.stride and all(block is None or block.stride == layer.stride for block in around):
            stages[layer.stride] = layer.name
    explained = [layer for layer in backbone if layer.member_of == "backbone"]
    stages |= {layer.stride: layer.name for layer in explained if layer.stride}
    return [stages[stride] for stride in sorted(stages)]


def with_stages(table: Sequence[Layer]) -> list[Layer]:
    """The layers, those that the stem and the stages give marked."""
    names = {name: f"stage {i}" if i else "stem" for i, name in enumerate(stage_names(table))}
    return [replace(layer, stage=names.get(layer.name)) for layer in table]


@dataclass(frozen=True)
class Origin:
    """The file a detector came from.

    Attributes:
        path: as given.
        sha256: of the file's bytes, hexadecimal.
        trust: "safe" nothing of the file ran, "named globals" only what the user named, "unsafe" anything.
        allowed_globals: the names the user vouched for.
    """

    path: str
    sha256: str
    trust: str
    allowed_globals: tuple[str, ...] = ()


class Location(NamedTuple):
    """Where a candidate sits: its level, the cell of that level's grid, and which of the cell's anchors."""

    level: Level
    row: int
    column: int
    anchor: int = 0


RowOrder = Literal["ayx", "yxa"]
"""Order of the candidates inside a level: anchors outermost (YOLOv3 to v7) or innermost (torchvision)."""


@dataclass(frozen=True, eq=False)
class RawPrediction:
    """One picture's candidates before any suppression, in the live graph.

    Rows are ordered level by level, inside a level by `row_order`.

    Attributes:
        class_logits: (N, K), before the sigmoid.
        levels: the head's levels; their rows sum to N, unless `located` is given.
        boxes: candidate indices (n,) -> boxes (n, 4), xyxy in network-input pixels, differentiable.
        objectness_logits: (N,), or None for a head without objectness.
        rotated_boxes: candidate indices (n,) -> (n, 5) cx, cy, w, h in network-input pixels and the
            angle in radians; None for upright boxes.
        scoring: how logits become scores.
        row_order: of the candidates inside a level.
        located: candidate index -> location, for heads whose candidates are no grid: regions, queries.
    """

    class_logits: Tensor
    levels: tuple[Level, ...]
    boxes: Callable[[Tensor], Tensor]
    objectness_logits: Tensor | None = None
    rotated_boxes: Callable[[Tensor], Tensor] | None = None
    scoring: Scoring = SIGMOID
    row_order: RowOrder = "yxa"
    located: Callable[[int], Location] | None = None

    def __post_init__(self) -> None:
        rows = len(self.class_logits) if self.located else sum(level.rows for level in self.levels)
        if self.class_logits.ndim != 2 or len(self.class_logits) != rows:
            raise ShapeError(
                f"class_logits must be (N, K) with N = {rows} candidates of "
                f"{[level.grid for level in self.levels]}, got {tuple(self.class_logits.shape)}"
            )
        if self.objectness_logits is not None and self.objectness_logits.shape != (rows,):
            raise ShapeError(
                f"objectness_logits must be ({rows},), got {tuple(self.objectness_logits.shape)}"
            )

    def scores(self) -> Tensor:
        """Score of every candidate for every class, (N, K) in 0..1."""
        return self.scoring.scores(self.class_logits, self.objectness_logits)

    def class_probabilities(self) -> Tensor:
        """Probability of each class for every candidate, without objectness, (N, K) in 0..1."""
        return self.scoring.class_probabilities(self.class_logits)

    def objectness(self) -> Tensor | None:
        """What a head of two factors says beside the class, (N,) in 0..1; None for a head of one."""
        return None if self.objectness_logits is None else self.objectness_logits.sigmoid()

    def locate(self, candidate: int) -> Location:
        """Level, row, column and anchor of one candidate.

        Raises:
            IndexError: the candidate does not exist.
        """
        if self.located is not None:
            return self.located(candidate)
        offset = candidate
        for level in self.levels:
            if 0 <= offset < level.rows:
                return _locate(level, offset, self.row_order)
            offset -= level.rows
        raise IndexError(f"candidate {candidate} of {len(self.class_logits)}")

    def central_candidates(self) -> dict[str, int]:
        """Level name -> the candidate of the cell in the middle of its grid, or the nearest that there is.

        Levels without any candidate, as heads of regions have them, are left out.
        """
        nearest: dict[str, tuple[int, int]] = {}
        for candidate in range(len(self.class_logits)):
            level, row, column, _ = self.locate(candidate)
            distance = abs(row - level.grid[0] // 2) + abs(column - level.grid[1] // 2)
            if level.name not in nearest or distance < nearest[level.name][0]:
                nearest[level.name] = distance, candidate
        return {name: candidate for name, (_, candidate) in nearest.items()}


def _locate(level: Level, offset: int, order: RowOrder) -> Location:
    if order == "yxa":
        cell, anchor = divmod(offset, level.anchors)
    else:
        anchor, cell = divmod(offset, level.grid[0] * level.grid[1])
    return Location(level, *divmod(cell, level.grid[1]), anchor)


@dataclass(frozen=True, eq=False)
class Detections:
    """One picture's detections after suppression.

    Attributes:
        boxes: (M, 4) float32, xyxy in original-image pixels.
        scores: (M,) float32 in 0..1, in descending order.
        labels: (M,) int64 class indices.
        candidates: (M,) int64, the row of `RawPrediction` each came from.
        corners: (M, 4, 2) float32 corner points (x, y) of rotated boxes in original-image pixels, or
            None; `boxes` then holds the upright boxes around them.
        best_score: highest score of any candidate of the wanted classes, found or not, in 0..1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    candidates: Tensor
    corners: Tensor | None = None
    best_score: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.boxes)
        shapes = {"boxes": (count, 4), "scores": (count,), "labels": (count,), "candidates": (count,)}
        for name, expected in shapes.items():
            if getattr(self, name).shape != expected:
                raise ShapeError(f"{name} must be {expected}, got {tuple(getattr(self, name).shape)}")
        if self.corners is not None and self.corners.shape != (count, 4, 2):
            raise ShapeError(f"corners must be {(count, 4, 2)}, got {tuple(self.corners.shape)}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Sequence[int] | slice | Tensor) -> Detections:
        """The detections at `rows` (a list, slice or index tensor)."""
        if isinstance(rows, list | tuple):
            rows = torch.as_tensor(rows, dtype=torch.long, device=self.boxes.device)
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            candidates=self.candidates[rows],
            corners=None if self.corners is None else self.corners[rows],
        )

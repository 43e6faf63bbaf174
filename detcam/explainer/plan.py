"""What is asked of a detector, looked up, and what is gathered for each picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from detcam.adapters.base import DetectOptions, Detector
from detcam.cam.capture import GradientPath
from detcam.cam.methods import Method
from detcam.cam.rescoring import Progress
from detcam.explainer.judging import Judge
from detcam.explainer.options import ExplainOptions
from detcam.explainer.sharing import Reach
from detcam.explanation import Question, Verdict
from detcam.geometry import Letterbox
from detcam.images import Picture
from detcam.structures import Detections, RawPrediction
from detcam.targets import Target, TargetFactory

EVIDENCE = (
    "activations",
    "gradients",
    "boxes",
    "cells",
    "seeds",
    "scores",
    "masked_scores",
    "ablated_scores",
    "sampled_masks",
    "sampled_scores",
)
"""What a detector gives to formulas, of `INPUTS`."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A detector and what is asked of it, looked up."""

    detector: Detector
    options: ExplainOptions
    method: Method
    detect: DetectOptions
    modules: Mapping[str, nn.Module]
    target: TargetFactory
    question: Question
    progress: Progress | None = None
    reach: Reach = field(default_factory=Reach)
    judge: Judge | None = None

    @property
    def path(self) -> GradientPath:
        """The gradients to build the graph for; any will do where no layer is looked at."""
        return self.options.path or "direct"


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """A picture as the network sees it.

    Attributes:
        picture: what was read.
        tensor: the network's input (3, H, W).
        geometry: picture <-> input.
        asked: the boxes to explain, whose candidates are rows of this very input's prediction; None for
            what is detected.
    """

    picture: Picture
    tensor: Tensor
    geometry: Letterbox
    asked: Detections | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A picture after the forward pass, and what is gathered for its M boxes.

    Attributes:
        input: the picture.
        raw: its prediction, in the live graph.
        found: how many boxes there are, explained or not.
        verdicts: what they are, if that is asked.
        chosen: those that are explained.
        targets: what is explained of each.
        values: (M,) of the targets.
        boxes: (M, 4) xyxy in network-input pixels.
        cells: (M, 4) the cell that predicted each, likewise.
        maps: captured name -> (M, h, w).
        reach: captured name -> (M,), the largest absolute gradient there.
    """

    input: PreparedPicture
    raw: RawPrediction
    found: int
    verdicts: tuple[Verdict, ...]
    chosen: Detections
    targets: tuple[Target, ...]
    values: Tensor
    boxes: Tensor
    cells: Tensor
    maps: dict[str, Tensor] = field(default_factory=dict)
    reach: dict[str, Tensor] = field(default_factory=dict)

    def make_room(self, activations: Mapping[str, Tensor]) -> None:
        """Start with maps of zeros for layers (B, C, h, w)."""
        for name, one in activations.items():
            self.maps[name] = one.new_zeros(len(self.chosen), *one.shape[2:])
            self.reach[name] = torch.zeros(len(self.chosen))

    def placement(self, box: int, grid: tuple[int, int]) -> dict[str, Tensor]:
        """What a method may know of a box, by names of `INPUTS`; boxes and cells on a layer's grid."""
        rows, geometry = slice(box, box + 1), self.input.geometry
        return {
            "scores": self.values[rows],
            "boxes": geometry.boxes_to_grid(self.boxes[rows], grid),
            "cells": geometry.boxes_to_grid(self.cells[rows], grid),
            "seeds": self.chosen.candidates[rows],
        }

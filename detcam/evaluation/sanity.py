"""Sanity checks: the maps after what they explain has changed. A map that stays the same explains nothing.

Adebayo et al. 2018, arXiv:1810.03292. What changes: the class (the runner-up's logit of the same candidate),
the box (another detection of the picture), the weights, from the head backwards. Differs from the paper:
weights are shuffled within each tensor instead of drawn anew, so that every layer keeps its scale.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from detcam.adapters.base import Detector
from detcam.errors import DetcamError
from detcam.evaluation.ways import Way
from detcam.explainer import Explainer
from detcam.explanation import Explanation
from detcam.images import Picture
from detcam.structures import Detections, LayerSet

PARTS: dict[str, tuple[LayerSet, ...]] = {
    "weights of the head": ("head",),
    "weights of head and neck": ("head", "neck"),
    "all weights": ("head", "neck", "backbone"),
}
"""Name of a variant -> the parts of the network whose weights are shuffled."""


@dataclass(frozen=True, eq=False)
class SanityChecks:
    """Makes the second maps for a detector and the ways that are compared.

    Attributes:
        detector: unchanged.
        ways: compared side by side.
        imgsz: as the maps were made.
        seed: of the shuffling.
    """

    detector: Detector
    ways: Sequence[Way]
    imgsz: int | None
    seed: int

    @cached_property
    def _explainers(self) -> dict[str, list[Explainer]]:
        changed = {name: shuffled(self.detector, parts, self.seed) for name, parts in PARTS.items()}
        return {
            name: [way.explainer(detector, self.imgsz) for way in self.ways]
            for name, detector in {
                "another class": self.detector,
                "another box": self.detector,
                **changed,
            }.items()
        }

    def maps(
        self, picture: Picture, boxes: Detections, others: Mapping[str, Detections]
    ) -> dict[str, Tensor]:
        """Variant -> (M, W, H, W) maps on the network's input; zeros where a way has none.

        Args:
            picture: whose boxes they are.
            boxes: M of them.
            others: "another class" and "another box" -> what is explained instead, M each.
        """
        return {
            name: torch.stack([maps_of(one, picture, others.get(name, boxes)) for one in explainers], dim=1)
            for name, explainers in self._explainers.items()
        }


def maps_of(explainer: Explainer, picture: Picture, boxes: Detections) -> Tensor:
    """One way's merged maps (M, H, W) on the network's input; zeros for a box that cannot be explained."""
    _, geometry = explainer.detector.prepare(picture.pixels, explainer.options.imgsz)
    nothing = torch.zeros(len(boxes), *geometry.input_size)
    if not len(boxes):
        return nothing
    try:
        explanation = explainer.explain_boxes(picture, boxes)
    except DetcamError:
        if len(boxes) > 1:
            return torch.cat([maps_of(explainer, picture, boxes[[row]]) for row in range(len(boxes))])
        return nothing
    return on_input(explanation)


def on_input(explanation: Explanation) -> Tensor:
    """The boxes' merged maps (M, H, W) on the network's input, on the CPU."""
    size = explanation.geometry.input_size
    maps = explanation.merged[None]
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0].cpu()


def shuffled(detector: Detector, parts: Sequence[LayerSet], seed: int) -> Detector:
    """A copy of the detector, the weights of some parts shuffled within each tensor.

    Weights that stand in no listed layer, such as a head's own, are the head's.

    Args:
        detector: is not touched.
        parts: of the network.
        seed: of the order.
    """
    changed = copy.deepcopy(detector)
    generator = torch.Generator().manual_seed(seed)
    kept = {layer.name for layer in detector.layers() if layer.part not in parts}
    with torch.no_grad():
        for name, parameter in changed.model.named_parameters():
            if not any(name.startswith(f"{layer}.") for layer in kept):
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return changed


def runner_up(boxes: Detections, probabilities: Tensor) -> Detections:
    """The same boxes as if of the class that came second; (M, K) probabilities of their candidates.

    With a single class there is no other: the class stays.
    """
    others = probabilities.clone()
    others[torch.arange(len(boxes)), boxes.labels] = -1
    if others.shape[1] < 2:
        return boxes
    return replace(boxes, labels=others.argmax(dim=1))


def another(boxes: Detections, found: Detections) -> Detections:
    """For each box the best other detection of the picture; itself where there is none.

    Args:
        boxes: M of `found`.
        found: all detections of the picture, best first.
    """
    candidates = found.candidates.tolist()
    return found[
        [
            next(
                (row for row, other in enumerate(candidates) if other != candidate),
                candidates.index(candidate),
            )
            for candidate in boxes.candidates.tolist()
        ]
    ]

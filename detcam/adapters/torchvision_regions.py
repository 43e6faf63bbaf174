"""Faster, Mask and Keypoint R-CNN of torchvision: candidates are regions that a first network proposes.

Ren et al. 2015, arXiv:1506.01497; regions are pooled from one level of a feature pyramid each, Lin et al.
2017, arXiv:1612.03144, eq. 1. Each region is regressed to one box per class and may be detected as several
classes. A candidate therefore is a pair of a region and a class: its box is the one that is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import MultiScaleRoIAlign

from detcam.adapters.restoring import kept_attributes
from detcam.adapters.torchvision_common import (
    TorchvisionDetector,
    boxes_from_deltas,
    check_finite,
    feature_maps,
)
from detcam.adapters.torchvision_stages import FeatureMap
from detcam.errors import CaptureError
from detcam.scoring import Softmax
from detcam.structures import Level, Location, RawPrediction

_MOST_CLASSES = 100
"""Classes of a region that become candidates: of more, the best. The others score less than a hundredth."""


@dataclass(frozen=True, eq=False)
class PairSoftmax(Softmax):
    """Softmax over classes and background, where each candidate is scored for one class only.

    Attributes:
        labels: (N,) int64, the class of each candidate.
    """

    labels: Tensor

    def scores(self, class_logits: Tensor, objectness_logits: Tensor | None) -> Tensor:
        """See `Scoring`; 0 for every class but the candidate's own."""
        columns = torch.arange(class_logits.shape[1], device=class_logits.device)
        return class_logits.softmax(dim=1).where(columns == self.labels[:, None], 0.0)


@dataclass(frozen=True, eq=False)
class Regions:
    """One picture's proposals, constants of the graph, and what the box head says about them.

    Attributes:
        proposals: (R, 4) xyxy in network-input pixels.
        logits: (R, K).
        deltas: (R, K, 4).
        pooled_from: (R,) int64, the level each was pooled from.
    """

    proposals: Tensor
    logits: Tensor
    deltas: Tensor
    pooled_from: Tensor

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Region (N,) and class (N,) of every candidate: region by region, classes ascending."""
        count = min(self.logits.shape[1] - 1, _MOST_CLASSES)
        classes = self.logits[:, 1:].detach().topk(count, dim=1).indices.sort(dim=1).values + 1
        regions = torch.arange(len(classes), device=classes.device)[:, None].expand_as(classes)
        return regions.flatten(), classes.flatten()


class RegionsDetector(TorchvisionDetector):
    """Faster R-CNN and what is built on it, its boxes; the constructor is `TorchvisionDetector`'s."""

    least_side = 1e-2

    @staticmethod
    def recognises(model: nn.Module) -> bool:
        """Whether it is a torchvision R-CNN whose regions are pooled and classified as torchvision does."""
        heads: Any = getattr(model, "roi_heads", None)
        return (
            isinstance(model, GeneralizedRCNN)
            and isinstance(getattr(heads, "box_roi_pool", None), MultiScaleRoIAlign)
            and hasattr(heads.box_predictor, "cls_score")
        )

    @property
    def columns(self) -> int:
        """See `TorchvisionDetector`."""
        return int(self.model.roi_heads.box_predictor.cls_score.out_features)

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W), in the live graph; call inside `capture`.

        Masks and keypoints are not computed.

        Raises:
            CaptureError: the network gave values that are no numbers, or no box for each class.
        """
        images, heads = self._padded(batch), self.model.roi_heads
        with kept_attributes(self.model.rpn.anchor_generator), kept_attributes(heads.box_roi_pool):
            features = feature_maps(self.model.backbone(images.tensors))
            with torch.no_grad():  # the model detaches them too
                proposals, _ = self.model.rpn(images, features)
            pooled = heads.box_roi_pool(features, proposals, images.image_sizes)
            logits, deltas = heads.box_predictor(heads.box_head(pooled))
            levels = self._levels(features)
            mapper = heads.box_roi_pool.map_levels
        check_finite(logits)
        if deltas.shape[1] != 4 * logits.shape[1]:
            raise CaptureError(
                f"the box predictor gave {logits.shape[1]} classes and {deltas.shape[1]} box deltas, "
                f"not four for each class: this kind of head is not supported"
            )
        counts = [len(one) for one in proposals]
        parts = zip(proposals, logits.split(counts), deltas.split(counts), strict=True)
        return [
            self._raw(
                Regions(boxes, scored, moved.unflatten(1, (-1, 4)), _pooled_from(boxes, levels, mapper)),
                levels,
                input_size=(images.tensors.shape[2], images.tensors.shape[3]),
            )
            for boxes, scored, moved in parts
        ]

    def _raw(self, regions: Regions, levels: tuple[Level, ...], input_size: tuple[int, int]) -> RawPrediction:
        of_region, labels = regions.pairs()
        coder = self.model.roi_heads.box_coder
        places = _places(regions, levels, input_size)
        per_region = len(labels) // max(len(places), 1)

        def boxes(i: Tensor) -> Tensor:
            return boxes_from_deltas(
                regions.deltas[of_region[i], labels[i]], regions.proposals[of_region[i]], coder
            )

        def located(candidate: int) -> Location:
            if not 0 <= candidate < len(labels):
                raise IndexError(f"candidate {candidate} of {len(labels)}")
            return places[candidate // per_region]

        return RawPrediction(
            regions.logits[of_region],
            levels,
            boxes,
            scoring=PairSoftmax(background=0, labels=labels),
            located=located,
        )

    def _levels(self, features: dict[str, Tensor]) -> tuple[Level, ...]:
        """The levels that regions can be pooled from."""
        return tuple(
            Level(one.level, one.stride, (features[one.name].shape[2], features[one.name].shape[3]))
            for one in self._pooled(self.maps)
        )

    def _pooled(self, maps: Sequence[FeatureMap]) -> list[FeatureMap]:
        names = self.model.roi_heads.box_roi_pool.featmap_names
        return [one for one in maps if one.name in names]

    def _maps_read(self, maps: Sequence[FeatureMap]) -> Sequence[FeatureMap]:
        """Of two maps with one stride (MobileNet's), only the first: levels are told apart by stride."""
        pooled = self._pooled(maps)
        strides = [one.stride for one in pooled]
        return [one for i, one in enumerate(pooled) if one.stride not in strides[:i]]

    @property
    def _postprocessing(self) -> Any:
        return self.model.roi_heads


def _pooled_from(proposals: Tensor, levels: tuple[Level, ...], mapper: Any) -> Tensor:
    """Index of the level each proposal (R, 4) is pooled from: by its size."""
    if len(levels) == 1:
        return torch.zeros(len(proposals), dtype=torch.long, device=proposals.device)
    indices: Tensor = mapper([proposals])
    return indices


def _places(regions: Regions, levels: tuple[Level, ...], input_size: tuple[int, int]) -> list[Location]:
    """Where each region sits: the cell of its level that holds its centre."""
    size = regions.proposals.new_tensor([input_size[1], input_size[0]])
    centres = (regions.proposals[:, :2] + regions.proposals[:, 2:]) / 2 / size
    places = []
    for (x, y), index in zip(centres.tolist(), regions.pooled_from.tolist(), strict=True):
        height, width = levels[index].grid
        places.append(
            Location(levels[index], min(int(y * height), height - 1), min(int(x * width), width - 1))
        )
    return places

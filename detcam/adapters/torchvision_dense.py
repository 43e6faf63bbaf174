"""RetinaNet, FCOS and SSD of torchvision, also SSDlite: candidates on the grids of several feature maps.

Lin et al. 2017, arXiv:1708.02002; Tian et al. 2019, arXiv:1904.01355; Liu et al. 2016, arXiv:1512.02325.
Their heads return raw logits for all levels in one tensor, ordered level by level, row by row, cell by cell,
anchors innermost.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.ssd import SSD

from detcam.adapters.decoding import boxes_around
from detcam.adapters.restoring import kept_attributes
from detcam.adapters.suppression import Pairs, best_of_each
from detcam.adapters.torchvision_common import (
    TorchvisionDetector,
    boxes_from_deltas,
    check_finite,
    feature_maps,
)
from detcam.scoring import SIGMOID, RootOfProduct, Scoring, Softmax
from detcam.structures import Level, RawPrediction


class DenseDetector(TorchvisionDetector):
    """What the three have in common; the constructor is `TorchvisionDetector`'s."""

    scoring: Scoring

    def forward(self, batch: Tensor) -> list[RawPrediction]:
        """One `RawPrediction` per picture of (B, 3, H, W), in the live graph; call inside `capture`.

        Raises:
            CaptureError: the network gave values that are no numbers.
        """
        images = self._padded(batch)
        with kept_attributes(self.model.anchor_generator):
            features = list(feature_maps(self.model.backbone(images.tensors)).values())
            outputs = self.model.head(features)
            anchors = self.model.anchor_generator(images, features)
        check_finite(outputs["cls_logits"])
        levels = self._levels(features, rows=outputs["cls_logits"].shape[1])
        return [
            self._raw({name: rows[b] for name, rows in outputs.items()}, anchors[b], levels)
            for b in range(len(batch))
        ]

    def _levels(self, features: list[Tensor], rows: int) -> tuple[Level, ...]:
        grids = [(one.shape[2], one.shape[3]) for one in features]
        anchors = self._anchors_per_cell(grids, rows)
        return tuple(
            Level(one.level, one.stride, grid, count)
            for one, grid, count in zip(self.maps, grids, anchors, strict=True)
        )

    def _anchors_per_cell(self, grids: list[tuple[int, int]], rows: int) -> list[int]:
        """The same for all levels: their head is shared."""
        return [rows // sum(height * width for height, width in grids)] * len(grids)

    def _raw(self, outputs: dict[str, Tensor], anchors: Tensor, levels: tuple[Level, ...]) -> RawPrediction:
        """`outputs` are one picture's rows of each of the head's outputs."""
        deltas = outputs["bbox_regression"]
        centredness = outputs.get("bbox_ctrness")
        return RawPrediction(
            outputs["cls_logits"],
            levels,
            boxes=lambda i: self._decoded(deltas[i], anchors[i]),
            objectness_logits=None if centredness is None else centredness[:, 0],
            scoring=self.scoring,
            row_order="yxa",
        )

    def _decoded(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        return boxes_from_deltas(deltas, anchors, self.model.box_coder)

    def _shortlist(self, raw: RawPrediction, pairs: Pairs) -> Tensor:
        """The best `topk_candidates` of each group."""
        return best_of_each(pairs.scores, self._groups(raw, pairs), self.model.topk_candidates)

    @abstractmethod
    def _groups(self, raw: RawPrediction, pairs: Pairs) -> Tensor:
        """Which group each pair belongs to, (n,) int64."""


class RetinaNetDetector(DenseDetector):
    """RetinaNet, both versions: sigmoids, of which column 0 stays untrained."""

    scoring: Scoring = SIGMOID
    may_zero_be_a_class = True

    @staticmethod
    def recognises(model: nn.Module) -> bool:
        """Whether it is a torchvision RetinaNet."""
        return isinstance(model, RetinaNet)

    @property
    def columns(self) -> int:
        """See `TorchvisionDetector`."""
        head: Any = self.model.head
        anchors = head.regression_head.bbox_reg.out_channels // 4
        return int(head.classification_head.cls_logits.out_channels // anchors)

    def _groups(self, raw: RawPrediction, pairs: Pairs) -> Tensor:
        """The levels."""
        ends = torch.tensor([level.rows for level in raw.levels], device=pairs.candidates.device).cumsum(0)
        return torch.bucketize(pairs.candidates, ends, right=True)


class FCOSDetector(RetinaNetDetector):
    """FCOS: one candidate per cell, scored by class and centredness."""

    scoring: Scoring = RootOfProduct()

    @staticmethod
    def recognises(model: nn.Module) -> bool:
        """Whether it is a torchvision FCOS."""
        return isinstance(model, FCOS)

    def _decoded(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Distances to the four edges, in units of the anchor's size; Tian et al. 2019, eq. 1."""
        sizes = anchors[:, 2:] - anchors[:, :2]
        units = torch.cat([sizes, sizes], dim=1) if self.model.box_coder.normalize_by_size else 1.0
        return boxes_around(anchors[:, :2] + sizes / 2, deltas * units)


class SSDDetector(DenseDetector):
    """SSD and SSDlite: softmax over classes and background, a head of its own for each level."""

    scoring: Scoring = Softmax(background=0)

    @staticmethod
    def recognises(model: nn.Module) -> bool:
        """Whether it is a torchvision SSD."""
        return isinstance(model, SSD)

    @property
    def columns(self) -> int:
        """See `TorchvisionDetector`."""
        head: Any = self.model.head
        classes, edges = (
            [one for one in tower.module_list[0].modules() if isinstance(one, nn.Conv2d)][-1].out_channels
            for tower in (head.classification_head, head.regression_head)
        )
        return int(classes // (edges // 4))

    def _anchors_per_cell(self, grids: list[tuple[int, int]], rows: int) -> list[int]:
        return list(self.model.anchor_generator.num_anchors_per_location())

    def _groups(self, raw: RawPrediction, pairs: Pairs) -> Tensor:
        """The classes."""
        return pairs.labels

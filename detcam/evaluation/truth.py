"""What is known of a picture: its objects, in the detector's classes, and regions where evidence may lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from detcam.errors import ShapeError
from detcam.geometry import Letterbox
from detcam.labels import LabelledPicture, assign
from detcam.structures import Detections

UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Truth:
    """The N annotated objects of one picture.

    Attributes:
        boxes: (N, 4) xyxy in picture pixels.
        labels: (N,) class ids of the detector, -1 for a class that it does not know.
        is_crowd: (N,) bool.
        regions: name -> (N, H, W) bool on the picture, a part of the picture for each object: "" its mask.
        has_region: (N,) bool, whether an object's regions are known.
    """

    boxes: Tensor
    labels: Tensor
    is_crowd: Tensor
    has_region: Tensor
    regions: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.boxes)
        for name in ("labels", "is_crowd", "has_region"):
            if getattr(self, name).shape != (count,):
                raise ShapeError(f"{name} must be ({count},), got {tuple(getattr(self, name).shape)}")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, labelled: LabelledPicture, classes: Mapping[int, int], image_size: tuple[int, int]) -> Truth:
        """The truth of a labelled picture for a detector.

        Args:
            labelled: the picture's annotation.
            classes: label id -> class id of the detector.
            image_size: (H, W) of the picture.
        """
        has_mask = labelled.has_mask
        return cls(
            boxes=labelled.boxes,
            labels=torch.tensor([classes.get(label, UNKNOWN) for label in labelled.labels.tolist()]).long(),
            is_crowd=labelled.is_crowd,
            has_region=has_mask,
            regions={"": labelled.masks(image_size)} if bool(has_mask.any()) else {},
        )

    def matches(self, found: Detections, iou: float) -> list[int]:
        """Which object each detection stands for; negative for none, as `labels.assign` says."""
        matched = assign(
            *(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu()),
            *(self.boxes, self.labels),
            is_crowd=self.is_crowd,
            iou=iou,
        )
        return [int(one) for one in matched]

    def boxes_on(self, geometry: Letterbox) -> Tensor:
        """(N, 4) in pixels of the network's input."""
        return geometry.boxes_to_input(self.boxes)

    def regions_on(self, geometry: Letterbox) -> dict[str, Tensor]:
        """Name -> (N, H, W) bool on the network's input."""
        return {
            name: torch.stack([_placed(mask, geometry) for mask in masks]) if len(masks) else masks
            for name, masks in self.regions.items()
        }


def _placed(mask: Tensor, geometry: Letterbox) -> Tensor:
    height, width = geometry.resized
    resized = cv2.resize(mask.numpy().astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    pixels = geometry.place(np.repeat(resized[:, :, None], 3, axis=2), padding=0)
    return torch.from_numpy(pixels[:, :, 0] > 0)

"""Pictures of noise whose truth is what the small detector finds in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from small_yolo import CLASS_NAMES, detector, pictures
from torchvision.ops import box_iou

import detcam
from detcam.evaluation import Truth
from detcam.images import Picture, read_picture


def truth_of(found: Any) -> Truth:
    """The detections themselves, as if annotated."""
    count = len(found)
    return Truth(
        boxes=found.boxes,
        labels=found.labels,
        is_crowd=torch.zeros(count, dtype=torch.bool),
        has_region=torch.zeros(count, dtype=torch.bool),
    )


def found_in(picture: Picture) -> Any:
    """All detections of the small detector."""
    return detcam.explain(detector(), picture, method="box", max_boxes=300).detections


def labelled_folder(folder: Path, count: int = 3) -> Path:
    """A data set in YOLO's layout: `count` pictures, labels from the detector itself, and data.yaml."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    names = "\n".join(f"  {index}: {name}" for index, name in CLASS_NAMES.items())
    (folder / "data.yaml").write_text(f"path: .\nval: images\nnames:\n{names}\n")
    for number, pixels in enumerate(pictures(count)):
        path = folder / "images" / f"{number}.png"
        Image.fromarray(pixels).save(path)
        found = found_in(read_picture(path))
        height, width = pixels.shape[:2]
        lines = []
        for (x1, y1, x2, y2), label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True):
            sides = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(f"{label} " + " ".join(f"{min(max(side, 0), 1):.6f}" for side in sides))
        (folder / "labels" / f"{number}.txt").write_text("\n".join(lines))
    return folder


def overlap(one: Any, other: Any) -> float:
    """IoU of two boxes (4,)."""
    return float(box_iou(one[None], other[None]))

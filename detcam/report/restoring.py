"""A stored explanation as a living one, which can be drawn and handed on as on the day it was made."""

from __future__ import annotations

from typing import get_args

import torch

from detcam.errors import InputError
from detcam.explanation import Explanation, Merge, Question
from detcam.images import Picture
from detcam.report.reading import StoredBox, StoredExplanation
from detcam.structures import Detections


def restored(stored: StoredExplanation, picture: Picture) -> Explanation:
    """The explanation that was stored, without features and the settings of random masks.

    Args:
        stored: as read.
        picture: the photograph that was explained.

    Raises:
        InputError: it was merged in a way that does not exist.
    """
    method, boxes = stored.method, stored.boxes
    merges = {name: name for name in get_args(Merge)}
    if method["merge"] not in merges:
        raise InputError(f"levels are merged by {' or '.join(merges)}, got {method['merge']!r}")
    return Explanation(
        picture=picture,
        geometry=stored.geometry,
        detections=_detections(boxes, stored.best_score),
        found=stored.found,
        class_names={box.class_id: box.class_name for box in boxes},
        question=Question(
            method=f"{method['name']}",
            target=f"{method['target']}",
            unit=f"{method['unit']}",
            path=method["gradients"],
            merge=merges[method["merge"]],
        ),
        layers=stored.layers,
        levels={
            layer.level: torch.stack([torch.from_numpy(box.maps[layer.level]) for box in boxes])
            if boxes
            else torch.zeros(0, *layer.grid)
            for layer in stored.layers
        },
        involved={
            layer.level: torch.tensor([layer.level not in box.idle for box in boxes], dtype=torch.bool)
            for layer in stored.layers
        },
        deciding=tuple(box.level for box in boxes),
        target_values=tuple(box.target_value for box in boxes),
        verdicts=stored.verdicts,
    )


def _detections(boxes: tuple[StoredBox, ...], best_score: float) -> Detections:
    corners = [box.corners for box in boxes if box.corners is not None]
    return Detections(
        boxes=torch.tensor([box.xyxy for box in boxes]).reshape(-1, 4),
        scores=torch.tensor([box.score for box in boxes]),
        labels=torch.tensor([box.class_id for box in boxes], dtype=torch.long),
        candidates=torch.tensor([box.candidate for box in boxes], dtype=torch.long),
        corners=torch.tensor(corners) if boxes and len(corners) == len(boxes) else None,
        best_score=best_score,
    )

"""The JSON document beside an overlay, schema "detcam.explanation/1" (`detcam/schemas`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from detcam.explanation.overlay import MERGED, Scale, maps_of

if TYPE_CHECKING:
    from detcam.explanation.core import Explanation

SCHEMA = "detcam.explanation/1"


def sidecar(explanation: Explanation, scale: Scale, files: dict[str, str | list[str]]) -> dict[str, Any]:
    """Everything but the maps' values; boxes are xyxy in picture pixels.

    Args:
        explanation: what to describe.
        scale: how the overlay was drawn.
        files: role -> file name or names, relative to the sidecar.
    """
    picture, geometry, question = explanation.picture, explanation.geometry, explanation.question
    return {
        "schema": SCHEMA,
        "image": {
            "path": None if picture.path is None else str(picture.path),
            "sha256": picture.sha256,
            "width": geometry.image_size[1],
            "height": geometry.image_size[0],
            "exif_orientation_applied": picture.exif_orientation,
        },
        "input": {
            "width": geometry.input_size[1],
            "height": geometry.input_size[0],
            "letterbox": {"ratio": list(geometry.ratio), "pad": list(geometry.pad)},
            "channels": "RGB",
        },
        "method": {
            "name": question.method,
            "target": question.target,
            "unit": question.unit,
            "gradients": question.path,
            "merge": question.merge,
            "scale": scale.kind,
            "scale_value": scale.value,
        },
        "layers": [
            {
                "level": layer.level,
                "module": layer.module,
                "set": layer.member_of,
                "stride": layer.stride,
                "grid": list(layer.grid),
            }
            for layer in explanation.layers
        ],
        "sampling": _sampling(explanation),
        "detections_found": explanation.found,
        "best_score": explanation.detections.best_score,
        "boxes": [_box(explanation, box) for box in range(len(explanation))],
        "verdicts": [one.record() for one in explanation.verdicts],
        "classes": {str(label): f"class_{label}" for label in classes(explanation)},
        "files": files,
        "warnings": explanation.warnings,
    }


def classes(explanation: Explanation) -> list[int]:
    """The classes among the explained boxes, each once, in order."""
    return sorted(set(explanation.detections.labels.tolist()))


def _box(explanation: Explanation, box: int) -> dict[str, Any]:
    detections = explanation.detections
    label = int(detections.labels[box])
    return {
        "id": box,
        "xyxy": detections.boxes[box].tolist(),
        "corners": None if detections.corners is None else detections.corners[box].tolist(),
        "class_id": label,
        "class": explanation.class_names[label],
        "score": float(detections.scores[box]),
        "level": explanation.deciding[box],
        "candidate": int(detections.candidates[box]),
        "energy_in_box": _number_or_none(explanation.energy_in_box[box]),
        "target_value": explanation.target_values[box],
        "convergence": _convergence(explanation, box),
        "maps": {level: _map(explanation, box, level) for level in [*explanation.levels, MERGED]},
    }


def _sampling(explanation: Explanation) -> dict[str, Any] | None:
    sampling = explanation.sampling
    if sampling is None:
        return None
    return {
        "masks": sampling.masks,
        "cells": sampling.cells,
        "visible": sampling.visible,
        "seed": sampling.seed,
    }


def _convergence(explanation: Explanation, box: int) -> float | None:
    """Of a box whose map is made of random masks, where it can be told."""
    return None if explanation.sampling is None else _number_or_none(explanation.sampling.convergence[box])


def _map(explanation: Explanation, box: int, level: str) -> dict[str, Any]:
    values = maps_of(explanation, level)[box]
    share = 1.0 if level == MERGED else explanation.shares[level][box]
    return {
        "npz": f"b{box:03d}/{level}",
        "min": float(values.min()),
        "max": float(values.max()),
        "share": _number_or_none(share),
        "involved": level == MERGED or bool(explanation.involved[level][box]),
    }


def _number_or_none(value: float) -> float | None:
    """JSON has no nan."""
    return None if math.isnan(value) else value

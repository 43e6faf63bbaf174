"""Explanations in Weights & Biases, with boxes and evidence that can be switched on and off there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from detcam.explanation import MERGED, Explanation, Scale, Style, blended
from detcam.packages import optional
from detcam.render import strongest_share


def to_image(
    explanation: Explanation, *, level: str = MERGED, scale: str = "energy", colormap: str = "inferno"
) -> Any:
    """The picture with its maps as a `wandb.Image`, to be logged.

    Its boxes are "detections". Its mask "half of the evidence" shows for each class the strongest pixels that
    hold half of the positive evidence.

    Args:
        explanation: what to show.
        level: a key of `Explanation.levels`, or "merged".
        scale: as in `Explanation.overlay`.
        colormap: as in `Explanation.overlay`.

    Raises:
        MissingPackageError: wandb is not installed.
        UnknownNameError: no such level, scale or colour map.
    """
    style = Style(Scale.parse(scale), colormap)
    drawn = blended(explanation, style, level, style.scale.tops(explanation, level))
    labels = sorted(set(explanation.detections.labels.tolist()))
    names = [explanation.class_names[label] for label in labels]
    boxes = {"box_data": _boxes(explanation), "class_labels": dict(zip(labels, names, strict=True))}
    mask = {
        "mask_data": _half_of_the_evidence(explanation, labels),
        "class_labels": dict(enumerate(["elsewhere", *names])),
    }
    return optional("wandb").Image(
        Image.fromarray(drawn),
        caption=f"{explanation.question.method} of {explanation.question.target}, {level}",
        boxes={"detections": boxes} if labels else None,
        masks={"half of the evidence": mask} if labels else None,
    )


def _boxes(explanation: Explanation) -> list[dict[str, Any]]:
    found = explanation.detections
    return [
        {
            "position": dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True)),
            "domain": "pixel",
            "class_id": label,
            "box_caption": explanation.label(number),
            "scores": {"score": score},
        }
        for number, (box, label, score) in enumerate(
            zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
        )
    ]


def _half_of_the_evidence(explanation: Explanation, labels: list[int]) -> npt.NDArray[np.uint8]:
    """At each pixel 1 and more for a class, in the order of `labels`, or 0; (H, W)."""
    mask = np.zeros(explanation.geometry.image_size, np.uint8)
    strongest = np.ones(mask.shape, np.float32)  # relative to what a class needs to be shown
    for number, label in zip(range(1, 256), labels, strict=False):  # a mask's values are bytes
        heatmap = explanation.of_class(label).heatmap.cpu().numpy()
        if needed := strongest_share(heatmap, 0.5):
            is_seen = heatmap / needed >= strongest
            mask[is_seen] = number
            strongest[is_seen] = (heatmap / needed)[is_seen]
    return mask

"""One picture whose boxes do not fit into memory together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from detcam.cam.capture import borrowed
from detcam.cam.rescoring import is_out_of_memory
from detcam.errors import CaptureError
from detcam.explainer.core import Explainer
from detcam.explainer.passes import Asked, asked_of
from detcam.explainer.plan import PreparedPicture
from detcam.explanation import Explanation
from detcam.images import Picture
from detcam.structures import Detections


def explain_piecemeal(explainer: Explainer, picture: Picture) -> Explanation:
    """What `Explainer.explain` gives, half of the boxes at a time, and half again while memory runs out.

    Raises:
        InputError: as of `Explainer.explain`.
        CaptureError: memory does not suffice for a single box.
        NoGradientError: as of `Explainer.explain`.
    """
    try:
        asked = _asked(explainer, picture)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_little("the network alone") from error
    parts: list[Explanation] = []
    start, size = 0, max(1, len(asked.chosen) // 2)
    while start < len(asked.chosen) or not parts:
        part = _explained(explainer, picture, asked.chosen[start : start + size], size)
        if part is None:
            size //= 2
        else:
            parts.append(part)
            start += size
    return _joined(parts, asked)


def _asked(explainer: Explainer, picture: Picture) -> Asked:
    """The boxes, without any graph."""
    detector = explainer.detector
    tensor, geometry = detector.prepare(picture.pixels, explainer.options.imgsz)
    with borrowed(detector.model), torch.no_grad():
        (raw,) = detector.forward(tensor[None])
        return asked_of(explainer, PreparedPicture(picture, tensor, geometry), raw)


def _explained(explainer: Explainer, picture: Picture, boxes: Detections, size: int) -> Explanation | None:
    """The explanation, or None where memory runs out; by then, all that the try has held is free again."""
    try:
        return explainer.explain_boxes(picture, boxes)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if size == 1:
            raise _too_little("one box") from error
    return None


def _too_little(what: str) -> CaptureError:
    return CaptureError(f"not enough memory for {what}: give a smaller --imgsz or another --device")


def _convergence(parts: list[Explanation]) -> Iterator[float]:
    for part in parts:
        if part.sampling is not None:
            yield from part.sampling.convergence


def _joined(parts: list[Explanation], asked: Asked) -> Explanation:
    first = parts[0]
    return replace(
        first,
        detections=asked.chosen,
        found=asked.found,
        verdicts=asked.verdicts,
        levels={level: torch.cat([part.levels[level] for part in parts]) for level in first.levels},
        involved={level: torch.cat([part.involved[level] for part in parts]) for level in first.involved},
        deciding=tuple(level for part in parts for level in part.deciding),
        target_values=tuple(value for part in parts for value in part.target_values),
        sampling=first.sampling and replace(first.sampling, convergence=tuple(_convergence(parts))),
    )

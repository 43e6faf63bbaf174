"""Why was it missed: what the network thought over a region, and what became of each thought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detcam.cam.capture import borrowed
from detcam.errors import InputError
from detcam.explainer.candidates import Box, Candidate, RawCandidates
from detcam.explainer.core import Explainer
from detcam.explanation import Explanation
from detcam.images import Picture
from detcam.structures import Detections, RawPrediction
from detcam.targets import Target

LISTED, EXPLAINED = 10, 3


@dataclass(frozen=True, eq=False)
class Missed:
    """What was found out about a region.

    Attributes:
        box: the region, xyxy in picture pixels.
        candidates: the best 10 at most, by score times IoU with the region; an IoU below .1 does not count.
        detections: what the detector does find in the picture; `Candidate.by` counts in them.
        speaks_for: maps of the best three candidates, of what speaks for their class.
        speaks_against: likewise, of what speaks against it: the same method on the target's negative.
    """

    box: Box
    candidates: tuple[Candidate, ...]
    detections: Detections
    speaks_for: Explanation
    speaks_against: Explanation


@dataclass(frozen=True)
class _Negative:
    """A target with its sign changed."""

    target: Target

    def __call__(self, raw: RawPrediction) -> Tensor:
        return -self.target(raw)


def why_missed(explainer: Explainer, picture: Picture, box: Sequence[float]) -> Missed:
    """What the raw candidates over a region were, what became of them, what spoke for and against the best.

    Args:
        explainer: its classes are those asked about, all where it names none; its threshold and suppression
            are those that count.
        picture: to be looked at.
        box: the region, xyxy in picture pixels.

    Raises:
        InputError: no such region in this picture.
        CaptureError: the network did not give what was to be captured.
        NoGradientError: a candidate's target depends on none of the layers.
    """
    region = _checked(box, picture)
    detector = explainer.detector
    tensor, geometry = detector.prepare(picture.pixels, explainer.options.imgsz)
    with borrowed(detector.model), torch.no_grad():
        (raw,) = detector.forward(tensor[None])
    everything = RawCandidates(detector, raw, geometry, explainer.detect)
    candidates = everything.over(region, explainer.detect.classes, LISTED)
    best = sorted(candidates[:EXPLAINED], key=lambda one: -one.score)
    asked = Detections(
        boxes=torch.tensor([one.box for one in best]).reshape(-1, 4),
        scores=torch.tensor([one.score for one in best]),
        labels=torch.tensor([one.class_id for one in best]).long(),
        candidates=torch.tensor([one.row for one in best]).long(),
        best_score=everything.found.best_score,
    )
    against = replace(
        explainer,
        target=lambda candidate, class_id: _Negative(explainer.target(candidate, class_id)),
        question=replace(explainer.question, target=f"minus {explainer.question.target}"),
    )
    speaks_for, speaks_against = (
        replace(one.explain_boxes(picture, asked), region=region) for one in (explainer, against)
    )
    return Missed(region, candidates, everything.kept, speaks_for, speaks_against)


def _checked(box: Sequence[float], picture: Picture) -> Box:
    height, width = picture.pixels.shape[:2]
    values = [float(value) for value in box]
    if len(values) != 4 or not all(-1e6 < value < 1e6 for value in values):
        raise InputError(f"a region is four numbers x1, y1, x2, y2 in picture pixels, got {list(box)}")
    x1, y1, x2, y2 = values
    if not (x1 < x2 and y1 < y2 and x1 < width and y1 < height and x2 > 0 and y2 > 0):
        raise InputError(
            f"a region needs x1 < x2 and y1 < y2 inside the picture of {width}×{height}, got {values}"
        )
    return x1, y1, x2, y2

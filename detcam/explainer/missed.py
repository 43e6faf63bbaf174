"""Why was it missed: what the network thought over a region, and what became of each thought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detcam.cam.capture import borrowed
from detcam.errors import InputError
from detcam.explainer.core import Explainer
from detcam.explanation import Explanation
from detcam.images import Picture
from detcam.structures import Detections, RawPrediction
from detcam.targets import Target

Fate = Literal["kept", "below the threshold", "another class", "suppressed", "left out"]

LEAST_IOU = 0.1
"""Of a candidate with the region asked about."""
LISTED, EXPLAINED = 10, 3
_SUPPRESSING_IOU = 0.3  # no vendor's suppression asks for less


@dataclass(frozen=True)
class Candidate:
    """A raw candidate over the region.

    Attributes:
        row: of the raw prediction.
        level: of the head.
        box: xyxy in picture pixels.
        iou: with the region.
        class_id: asked about, or the best of those.
        score: of that class, 0..1.
        winner: the class of the highest score there.
        winner_score: its score.
        fate: "kept": a detection. "below the threshold": its score is. "another class": another one wins
            there, or was kept from there. "suppressed": by the detection `by`, which scores higher. "left
            out": none of these, as of what is beyond max_det.
        by: number of the detection that took its place, or None.
        by_iou: overlap with it.
    """

    row: int
    level: str
    box: tuple[float, float, float, float]
    iou: float
    class_id: int
    score: float
    winner: int
    winner_score: float
    fate: Fate
    by: int | None = None
    by_iou: float | None = None


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

    box: tuple[float, float, float, float]
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
        found = detector.detect(raw, geometry, explainer.detect)
        every = detector.detect(raw, geometry, replace(explainer.detect, classes=None))
        boxes = geometry.boxes_to_image(raw.boxes(torch.arange(len(raw.class_logits))))
    candidates = candidates_over(region, boxes, raw, every, explainer.detect.conf, explainer.detect.classes)
    best = sorted(candidates[:EXPLAINED], key=lambda one: -one.score)
    asked = Detections(
        boxes=boxes[[one.row for one in best]].reshape(-1, 4),
        scores=torch.tensor([one.score for one in best]),
        labels=torch.tensor([one.class_id for one in best]).long(),
        candidates=torch.tensor([one.row for one in best]).long(),
        best_score=found.best_score,
    )
    against = replace(
        explainer,
        target=lambda candidate, class_id: _Negative(explainer.target(candidate, class_id)),
        question=replace(explainer.question, target=f"minus {explainer.question.target}"),
    )
    speaks_for, speaks_against = (
        replace(one.explain_boxes(picture, asked), region=region) for one in (explainer, against)
    )
    return Missed(region, candidates, every, speaks_for, speaks_against)


def candidates_over(
    region: Sequence[float],
    boxes: Tensor,
    raw: RawPrediction,
    kept: Detections,
    conf: float,
    classes: Sequence[int] | None,
) -> tuple[Candidate, ...]:
    """The best candidates over a region, and what became of each.

    Args:
        region: xyxy in picture pixels.
        boxes: (N, 4) of all candidates, likewise.
        raw: the N candidates.
        kept: what the detector finds, of any class.
        conf: its threshold.
        classes: asked about; None for all.
    """
    scores = raw.scores().detach()
    wanted = torch.arange(scores.shape[1]) if classes is None else torch.tensor(list(classes))
    best, place = scores[:, wanted].max(dim=1)
    overlap = box_iou(torch.tensor([list(region)]), boxes.cpu())[0]
    rank = torch.where(overlap >= LEAST_IOU, overlap * best.cpu(), -1.0)
    rows = [int(row) for row in rank.argsort(descending=True)[:LISTED] if rank[row] >= 0]
    found = []
    for row in rows:
        class_id, winner = int(wanted[place[row]]), int(scores[row].argmax())
        fate, by, by_iou = _fate(row, class_id, scores[row], boxes[row].cpu(), kept, conf)
        x1, y1, x2, y2 = boxes[row].tolist()
        found.append(
            Candidate(
                row=row,
                level=raw.locate(row).level.name,
                box=(x1, y1, x2, y2),
                iou=float(overlap[row]),
                class_id=class_id,
                score=float(scores[row, class_id]),
                winner=winner,
                winner_score=float(scores[row, winner]),
                fate=fate,
                by=by,
                by_iou=by_iou,
            )
        )
    return tuple(found)


def _fate(
    row: int, class_id: int, scores: Tensor, box: Tensor, kept: Detections, conf: float
) -> tuple[Fate, int | None, float | None]:
    """What became of a candidate, and the detection that took its place with their IoU."""
    same = (kept.candidates == row).nonzero().flatten().tolist()
    for number in same:
        if int(kept.labels[number]) == class_id:
            return "kept", number, 1.0
    if float(scores[class_id]) <= conf:
        return "below the threshold", None, None
    if same:
        return "another class", same[0], 1.0
    if int(scores.argmax()) != class_id:
        return "another class", None, None
    overlap = box_iou(box[None], kept.boxes.cpu())[0] if len(kept) else torch.zeros(0)
    overlap = torch.where(kept.scores.cpu() >= scores[class_id].cpu(), overlap, 0.0)
    own = torch.where(kept.labels.cpu() == class_id, overlap, 0.0)
    for one in (own, overlap):  # suppression that knows no classes comes second
        if len(one) and float(one.max()) >= _SUPPRESSING_IOU:
            return "suppressed", int(one.argmax()), float(one.max())
    return "left out", None, None


def _checked(box: Sequence[float], picture: Picture) -> tuple[float, float, float, float]:
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

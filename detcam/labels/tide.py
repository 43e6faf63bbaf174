"""What kind of right or wrong each detection is, and which objects were missed: the kinds of TIDE.

Bolya et al. 2020, arXiv:2008.08115, section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detcam.errors import InputError
from detcam.labels.agreement import IGNORED, assign

Kind = Literal[
    "true positive",
    "duplicate",
    "wrong class",
    "badly placed",
    "wrong class, badly placed",
    "background",
    "missed",
    "in a crowd",
]


@dataclass(frozen=True)
class Finding:
    """A detection beside the object that decides what kind it is, or an object that was missed.

    Attributes:
        kind: "true positive": an object of its class, IoU >= `iou`. "duplicate": that object was found by a
            stronger detection. "wrong class": such an object, but of another class. "badly placed": an
            object of its class, background <= IoU < iou. "wrong class, badly placed": the same of another
            class. "background": no object is touched by `background`. "missed": an object that none of
            these is about. "in a crowd": neither right nor wrong.
        detection: its row, or None for an object missed.
        truth: row of the object, or None.
        overlap: their IoU; None where there are not both.
    """

    kind: Kind
    detection: int | None
    truth: int | None
    overlap: float | None


def sort_findings(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    truth_boxes: Tensor,
    truth_labels: Tensor,
    *,
    is_crowd: Tensor | None = None,
    iou: float = 0.5,
    background: float = 0.1,
) -> list[Finding]:
    """Sort one picture's detections, and the objects they left over, into TIDE's kinds.

    Where a detection could be of several kinds, the order is that of the authors' tidecv: badly placed,
    wrong class, duplicate, background. As in the paper, an object is missed if no true positive, wrong class
    or badly placed detection is about it; crowds are never missed.

    Args:
        boxes: (M, 4) xyxy.
        scores: (M,).
        labels: (M,) int64.
        truth_boxes: (N, 4) xyxy in the same pixels.
        truth_labels: (N,) int64, the same classes as `labels`; one that the detector lacks is another class.
        is_crowd: (N,) bool, by default no crowds.
        iou: from which a detection is about an object; 0 < iou <= 1.
        background: below which it is about none; 0 <= background < iou.

    Returns:
        M findings in the order of the detections, then those of the objects missed.

    Raises:
        ShapeError: shapes do not fit.
        InputError: boxes or scores that are not finite, or a threshold out of range.
    """
    if not 0 <= background < iou:
        raise InputError(f"background must be at least 0 and below iou {iou}, got {background}")
    matched = assign(boxes, scores, labels, truth_boxes, truth_labels, is_crowd=is_crowd, iou=iou).tolist()
    counts = torch.ones(len(truth_boxes), dtype=torch.bool) if is_crowd is None else ~is_crowd.cpu()
    overlaps = box_iou(boxes.cpu().double(), truth_boxes.cpu().double())
    is_same = labels.cpu()[:, None] == truth_labels.cpu()
    same, other = (torch.where(which & counts, overlaps, 0.0) for which in (is_same, ~is_same))
    findings = [
        Finding("true positive", row, place, float(overlaps[row, place]))
        if place >= 0
        else Finding("in a crowd", row, None, None)
        if place == IGNORED
        else _wrong(row, same[row], other[row], iou, background)
        for row, place in enumerate(matched)
    ]
    about = {one.truth for one in findings if one.kind in ("true positive", "wrong class", "badly placed")}
    missed = [place for place in counts.nonzero().flatten().tolist() if place not in about]
    return [*findings, *(Finding("missed", None, place, None) for place in missed)]


def _wrong(row: int, same: Tensor, other: Tensor, iou: float, background: float) -> Finding:
    """A detection that is no object of its own, by its overlaps (N,) with objects of its class and others."""
    own, foreign = (float(one.max()) if len(one) else 0.0 for one in (same, other))
    kinds: list[tuple[bool, Kind, Tensor]] = [
        (background <= own < iou and own > 0, "badly placed", same),
        (foreign >= iou, "wrong class", other),
        (own >= iou, "duplicate", same),
        (foreign >= background and foreign > 0, "wrong class, badly placed", other),
    ]
    for holds, kind, overlaps in kinds:
        if holds:
            return Finding(kind, row, int(overlaps.argmax()), float(overlaps.max()))
    return Finding("background", row, None, None)

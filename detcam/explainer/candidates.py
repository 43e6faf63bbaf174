"""Raw candidates over a place in the picture, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detcam.adapters.base import DetectOptions, Detector
from detcam.geometry import Letterbox
from detcam.structures import Detections, RawPrediction

Box = tuple[float, float, float, float]
Fate = Literal["kept", "below the threshold", "another class", "suppressed", "left out"]

LEAST_IOU = 0.1
"""Of a candidate with the region asked about."""
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
    box: Box
    iou: float
    class_id: int
    score: float
    winner: int
    winner_score: float
    fate: Fate
    by: int | None = None
    by_iou: float | None = None

    def in_words(self, names: Mapping[int, str], kept: Detections) -> str:
        """What it was and what became of it, as "person 0.18 at P4, IoU 0.55: below the threshold".

        Args:
            names: class id -> name.
            kept: what `by` counts in.
        """
        fate: str = self.fate
        if self.fate == "suppressed" and self.by is not None:
            other = f"{names[int(kept.labels[self.by])]} {float(kept.scores[self.by]):.2f}"
            fate = f"suppressed by {other}, IoU {self.by_iou:.2f}"
        elif self.fate != "kept" and self.winner != self.class_id:
            fate = f"{self.fate}; {names[self.winner]} {self.winner_score:.2g} wins there"
        return f"{names[self.class_id]} {self.score:.2g} at {self.level}, IoU {self.iou:.2f}: {fate}"


class _End(NamedTuple):
    """What became of a candidate, the detection that took its place, and their IoU."""

    fate: Fate
    by: int | None = None
    by_iou: float | None = None


@dataclass(frozen=True, eq=False)
class RawCandidates:
    """One picture's raw candidates beside what the detector keeps of them.

    Attributes:
        detector: whose they are.
        raw: the N candidates.
        geometry: of the picture.
        options: threshold and suppression, and the classes that are wanted.
    """

    detector: Detector
    raw: RawPrediction
    geometry: Letterbox
    options: DetectOptions

    @cached_property
    def boxes(self) -> Tensor:
        """(N, 4) xyxy in picture pixels, on the CPU."""
        rows = torch.arange(len(self.raw.class_logits), device=self.raw.class_logits.device)
        return self.geometry.boxes_to_image(self.raw.boxes(rows)).detach().cpu()

    @cached_property
    def found(self) -> Detections:
        """What the detector finds of the wanted classes."""
        return self.detector.detect(self.raw, self.geometry, self.options)

    @cached_property
    def kept(self) -> Detections:
        """What it finds of any class."""
        return self.found if self.options.classes is None else self.detected(classes=None)

    def detected(self, **changed: Any) -> Detections:
        """What it would find with other `DetectOptions`."""
        return self.detector.detect(self.raw, self.geometry, replace(self.options, **changed))

    @cached_property
    def scores(self) -> Tensor:
        """(N, K) on the CPU, 0..1."""
        return self.raw.scores().detach().cpu()

    def over(
        self, region: Sequence[float], classes: Sequence[int] | None, most: int
    ) -> tuple[Candidate, ...]:
        """The best candidates over a region, by score times IoU; an IoU below .1 does not count.

        Args:
            region: xyxy in picture pixels.
            classes: asked about; None for all.
            most: how many at most.
        """
        wanted = torch.arange(self.scores.shape[1]) if classes is None else torch.tensor(list(classes))
        best, place = self.scores[:, wanted].max(dim=1)
        overlap = box_iou(torch.tensor([list(region)]), self.boxes)[0]
        rank = torch.where(overlap >= LEAST_IOU, overlap * best, -1.0)
        rows = [int(row) for row in rank.argsort(descending=True)[:most] if rank[row] >= 0]
        return tuple(self.candidate(row, int(wanted[place[row]]), float(overlap[row])) for row in rows)

    def unkept(self, region: Sequence[float], class_id: int, iou: float) -> Candidate | None:
        """The best candidate of a class over a region that is no detection of it; None where none lies there.

        Of those that fit the region the one of the highest score, else the best by score times IoU.

        Args:
            region: xyxy in picture pixels.
            class_id: asked about.
            iou: from which a candidate fits.
        """
        scores = self.scores[:, class_id]
        overlap = box_iou(torch.tensor([list(region)]), self.boxes)[0]
        rank = torch.where(
            overlap >= iou, 1 + scores, torch.where(overlap >= LEAST_IOU, overlap * scores, -1.0)
        )
        rank[self.kept.candidates.cpu()[self.kept.labels.cpu() == class_id]] = -1.0
        if not len(rank) or float(rank.max()) < 0:
            return None
        row = int(rank.argmax())
        return self.candidate(row, class_id, float(overlap[row]))

    def candidate(self, row: int, class_id: int, iou: float) -> Candidate:
        """What one candidate thought, and what became of it."""
        x1, y1, x2, y2 = self.boxes[row].tolist()
        winner = int(self.scores[row].argmax())
        return Candidate(
            row=row,
            level=self.raw.locate(row).level.name,
            box=(x1, y1, x2, y2),
            iou=iou,
            class_id=class_id,
            score=float(self.scores[row, class_id]),
            winner=winner,
            winner_score=float(self.scores[row, winner]),
            **self._end(row, class_id)._asdict(),
        )

    def _end(self, row: int, class_id: int) -> _End:
        kept, score = self.kept, self.scores[row, class_id]
        same = (kept.candidates.cpu() == row).nonzero().flatten().tolist()
        for number in same:
            if int(kept.labels[number]) == class_id:
                return _End("kept", number, 1.0)
        if float(score) <= self.options.conf:
            return _End("below the threshold")
        if same:
            return _End("another class", same[0], 1.0)
        if int(self.scores[row].argmax()) != class_id:
            return _End("another class")
        overlap = box_iou(self.boxes[row][None], kept.boxes.cpu())[0] if len(kept) else torch.zeros(0)
        overlap = torch.where(kept.scores.cpu() >= score, overlap, 0.0)
        own = torch.where(kept.labels.cpu() == class_id, overlap, 0.0)
        for one in (own, overlap):  # suppression that knows no classes comes second
            if len(one) and float(one.max()) >= _SUPPRESSING_IOU:
                return _End("suppressed", int(one.argmax()), float(one.max()))
        return _End("left out")

"""What a box is, right or wrong, and what was not found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from detcam.labels import Kind as LabelledKind

Kind = LabelledKind | Literal["detection", "near miss"]
KINDS: tuple[Kind, ...] = (
    "missed",
    "background",
    "wrong class",
    "badly placed",
    "wrong class, badly placed",
    "duplicate",
    "near miss",
    "true positive",
    "in a crowd",
    "detection",
)
"""All of them, those first that one looks at first."""

Box = tuple[float, float, float, float]

NOT_FOUND: tuple[Kind, ...] = ("missed", "near miss")
"""Kinds that are no detections: their boxes are those of candidates that were not kept."""

RIGHT: tuple[Kind, ...] = ("true positive", "in a crowd", "detection")
"""Kinds that are no errors."""


@dataclass(frozen=True)
class Verdict:
    """What a detection is beside the labels, or what there is to say about something not found.

    Attributes:
        kind: see `labels.sort_findings`; or without labels "detection", and "near miss" for a candidate
            below the threshold where nothing was found.
        box: xyxy in picture pixels; of an object missed, its best candidate's, or its own if it has none.
        class_id: of the box.
        class_name: likewise.
        score: of the box, 0..1.
        words: the reason, for people.
        candidate: row of the prediction, None for an object that no candidate lies over.
        truth: box of the labelled object that decides, or None.
        truth_class: its class.
        overlap: IoU of the two boxes, or None.
        row: number of the explained box, None for one that is not explained.
    """

    kind: Kind
    box: Box
    class_id: int
    class_name: str
    score: float
    words: str
    candidate: int | None
    truth: Box | None = None
    truth_class: str | None = None
    overlap: float | None = None
    row: int | None = None

    @property
    def title(self) -> str:
        """The kind and what it is about, such as "missed: bus" or "duplicate: handbag 0.73"."""
        about = self.truth_class if self.kind == "missed" else f"{self.class_name} {self.score:.2f}"
        return f"{self.kind}: {about}"

    def record(self) -> dict[str, Any]:
        """As stored in the sidecar."""
        record = asdict(self)
        return {"class": record.pop("class_name"), **record}


def of_rows(verdicts: Sequence[Verdict], rows: Sequence[int]) -> tuple[Verdict, ...]:
    """The verdicts on some of the explained boxes, renumbered."""
    places = {row: place for place, row in enumerate(rows)}
    return tuple(replace(one, row=places[one.row]) for one in verdicts if one.row in places)

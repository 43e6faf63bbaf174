"""What measuring one picture gives: rows of numbers, and the curves they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One number: a metric of one way's map of one detection.

    Attributes:
        picture: the picture's path.
        box: number of the detection among the picture's, best first.
        class_name: of the detection.
        score: of the detection, 0..1.
        area: of the box, as a share of the network's input.
        way: `Way.name`.
        metric: key of `METRICS`.
        variant: what the metric was taken against where that can differ ("marker", "other-class" …), or "".
        value: None where undefined.
        f0: what the match scored in the unchanged picture, for metrics that ask the network; else None.
        preset: name of the protocol of those metrics, or "".
    """

    picture: str
    box: int
    class_name: str
    score: float
    area: float
    way: str
    metric: str
    variant: str
    value: float | None
    f0: float | None = None
    preset: str = ""


@dataclass(frozen=True)
class Curve:
    """A deletion and an insertion curve of one way's map of one detection, as scored.

    Attributes:
        box: number of the detection.
        way: `Way.name`.
        fractions: share of the input's pixels that is changed, S ascending numbers.
        deletion: S scores, None where undefined.
        insertion: likewise.
        f0: score of the unchanged picture.
    """

    box: int
    way: str
    fractions: tuple[float, ...]
    deletion: tuple[float | None, ...]
    insertion: tuple[float | None, ...]
    f0: float


@dataclass(frozen=True)
class MeasuredPicture:
    """Everything measured in one picture.

    Attributes:
        source: its path.
        found: how many detections there were.
        matched: how many of them were matched to truth.
        truths: how many objects are annotated.
        rows: the numbers.
        curves: of the metrics that ask the network.
        seconds: processor time of each way's maps, all boxes together.
        notes: what a reader should know.
    """

    source: str
    found: int
    matched: int
    truths: int
    rows: tuple[Row, ...] = ()
    curves: tuple[Curve, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As stored in JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> MeasuredPicture:
        """What `document` gave."""
        curves = [
            Curve(**one | {name: tuple(one[name]) for name in ("fractions", "deletion", "insertion")})
            for one in document["curves"]
        ]
        return cls(
            **{
                **document,
                "rows": tuple(Row(**one) for one in document["rows"]),
                "curves": tuple(curves),
                "notes": tuple(document["notes"]),
            }
        )


def numbers(values: Sequence[float]) -> tuple[float | None, ...]:
    """Values as JSON holds them: None for nan."""
    return tuple(None if value != value else float(value) for value in values)

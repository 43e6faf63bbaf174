"""A run's errors: how many of each kind, and what to look at first."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detcam.errors import InputError
from detcam.explanation import KINDS, RIGHT, Verdict
from detcam.files import write_json
from detcam.report.reading import StoredRow, StoredRun, read_run, read_verdicts

SCHEMA = "detcam.errors/1"
LISTED = 100
_ASKED = ("true positive", "badly placed", "missed")  # kinds whose object is surely of a class asked about
_SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": float("inf")}  # areas below, COCO's


@dataclass(frozen=True)
class RankedError:
    """An error of a run.

    Attributes:
        surprise: 0..1. Of a detection its score: how sure the detector was. Of an object missed, 1 minus the
            score of its best candidate, times the share of objects of its size that the run found.
        row: the picture.
        verdict: what is wrong.
    """

    surprise: float
    row: StoredRow
    verdict: Verdict

    def record(self) -> dict[str, Any]:
        """As stored in errors.json."""
        sidecar = self.row.sidecar
        return {
            "surprise": round(self.surprise, 4),
            "source": self.row.source,
            "sidecar": sidecar and sidecar.name,
            **self.verdict.record(),
        }


@dataclass(frozen=True)
class ErrorSummary:
    """What went wrong in a run.

    Attributes:
        counts: kind -> how many, the kinds that are there.
        found: "small", "medium" or "large" (COCO's areas, 32² and 96² pixels) -> objects found, and labelled;
            without those that only a detection of another class is about.
        first: the errors of the highest surprise, 100 at most.
    """

    counts: Mapping[str, int]
    found: Mapping[str, tuple[int, int]]
    first: tuple[RankedError, ...]


def write_errors(folder: Path) -> tuple[Path, ErrorSummary]:
    """Write errors.json into a run that was made with labels or near misses.

    Raises:
        InputError: the folder is no run of `detcam explain`.
        OutputError: it cannot be written.
    """
    summary = summarise(read_run(folder))
    document = {
        "schema": SCHEMA,
        "counts": dict(summary.counts),
        "found": {size: {"found": found, "labelled": of} for size, (found, of) in summary.found.items()},
        "first": [one.record() for one in summary.first],
    }
    return write_json(folder / "errors.json", document), summary


def summarise(run: StoredRun) -> ErrorSummary:
    """Count and rank a run's errors; descriptions are read one at a time, damaged ones left out."""
    counts: Counter[str] = Counter()
    found: dict[str, list[int]] = {size: [0, 0] for size in _SIZES}
    for _, verdicts in _judged(run):
        counts.update(one.kind for one in verdicts)
        right = {one.truth for one in verdicts if one.kind == "true positive"}
        for truth in {one.truth for one in verdicts if one.truth is not None and one.kind in _ASKED}:
            size = found[_size(truth)]
            size[0] += truth in right
            size[1] += 1
    shares = {size: some / max(of, 1) for size, (some, of) in found.items()}
    errors = (
        RankedError(_surprise(one, shares), row, one)
        for row, verdicts in _judged(run)
        for one in verdicts
        if one.kind not in RIGHT
    )
    return ErrorSummary(
        counts={kind: counts[kind] for kind in KINDS if counts[kind]},
        found={size: (some, of) for size, (some, of) in found.items() if of},
        first=tuple(heapq.nlargest(LISTED, errors, key=lambda one: one.surprise)),
    )


def _judged(run: StoredRun) -> Iterator[tuple[StoredRow, tuple[Verdict, ...]]]:
    for row in run.rows:
        if row.sidecar is not None:
            with suppress(InputError):  # the report says what is wrong with it
                yield row, read_verdicts(row.sidecar)


def _surprise(one: Verdict, shares: Mapping[str, float]) -> float:
    if one.kind != "missed" or one.truth is None:
        return one.score
    return (1 - one.score) * shares[_size(one.truth)]


def _size(box: tuple[float, float, float, float]) -> str:
    x1, y1, x2, y2 = box
    return next(size for size, area in _SIZES.items() if (x2 - x1) * (y2 - y1) < area)

"""Rows made into the table a reader wants: means with intervals, beside the controls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detcam.evaluation.measured import MeasuredPicture, Row
from detcam.evaluation.ways import BASELINE
from detcam.metrics import Interval, mean_interval, paired_difference


@dataclass(frozen=True)
class SummaryLine:
    """One way by one metric.

    Attributes:
        metric: key of `METRICS`.
        variant: as in `Row`.
        way: `Way.name`.
        preset: of metrics that ask the network, or "".
        f0: mean score of the unchanged pictures, for those metrics; else None.
        value: mean and interval over detections, resampled by picture.
        difference: of the same detections, this way minus the Gaussian in the box; None for that itself.
    """

    metric: str
    variant: str
    way: str
    preset: str
    f0: float | None
    value: Interval
    difference: Interval | None

    def record(self) -> dict[str, Any]:
        """One flat row, of numbers and words."""
        record: dict[str, Any] = {
            name: getattr(self, name) for name in ("metric", "variant", "way", "preset", "f0")
        }
        record |= {
            name: getattr(self.value, name) for name in ("mean", "low", "high", "n", "undefined", "groups")
        }
        compared = {} if self.difference is None else asdict(self.difference)
        record |= {f"minus_{BASELINE}_{name}": compared.get(name) for name in ("mean", "low", "high", "n")}
        return {name: None if one != one else one for name, one in record.items()}


def summarise(rows: Iterable[Row]) -> list[SummaryLine]:
    """Lines in the order in which metrics, variants and ways first appear.

    Pictures are resampled, not detections: those of one picture are not independent.
    """
    tables: dict[tuple[str, str], dict[str, dict[tuple[str, int], Row]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in rows:
        tables[row.metric, row.variant][row.way][row.picture, row.box] = row
    return [
        _line(metric, variant, way, of_way, ways.get(BASELINE, {}))
        for (metric, variant), ways in tables.items()
        for way, of_way in ways.items()
    ]


def mean_curves(pictures: Iterable[MeasuredPicture]) -> dict[str, dict[str, list[float]]]:
    """Way -> "fractions", "deletion" and "insertion": means over detections of scores divided by f(0).

    Detections whose steps lie elsewhere (parts of a box) are interpolated to 101 fractions from 0 to 1.
    Undefined curves, and those whose f(0) is 0, are left out.
    """
    at = np.linspace(0, 1, 101)
    found: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for picture in pictures:
        for curve in picture.curves:
            if curve.f0 > 0 and None not in curve.deletion:
                found[curve.way].append(
                    tuple(  # type: ignore[arg-type]  # two of them
                        np.interp(at, curve.fractions, np.array(scores, float) / curve.f0)
                        for scores in (curve.deletion, curve.insertion)
                    )
                )
    return {
        way: {
            "fractions": at.tolist(),
            "deletion": np.mean([one[0] for one in curves], axis=0).tolist(),
            "insertion": np.mean([one[1] for one in curves], axis=0).tolist(),
        }
        for way, curves in found.items()
    }


def _line(
    metric: str,
    variant: str,
    way: str,
    rows: dict[tuple[str, int], Row],
    baseline: dict[tuple[str, int], Row],
) -> SummaryLine:
    first = next(iter(rows.values()))
    f0 = [row.f0 for row in rows.values() if row.f0 is not None]
    shared = [key for key in rows if key in baseline] if way != BASELINE else []
    return SummaryLine(
        metric=metric,
        variant=variant,
        way=way,
        preset=first.preset,
        f0=sum(f0) / len(f0) if f0 else None,
        value=mean_interval(_values(rows.values()), [picture for picture, _ in rows]),
        difference=paired_difference(
            _values(rows[key] for key in shared),
            _values(baseline[key] for key in shared),
            [key[0] for key in shared],
        )
        if shared
        else None,
    )


def _values(rows: Iterable[Row]) -> Sequence[float]:
    return [float("nan") if row.value is None else row.value for row in rows]

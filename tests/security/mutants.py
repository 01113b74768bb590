"""Recipes and JSON with something wrong in them, drawn by hypothesis."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

Path = tuple[str | int, ...]

QUICK, MANY = 200, 2000  # recipes in `make test`, and under the marker `slow`
FEW_FOLDERS, FOLDERS = 60, 600  # adapters likewise
FIXED = {"derandomize": True, "deadline": None, "database": None}

odd_texts = st.one_of(
    st.sampled_from(["", "base", "tiny", "../../etc/passwd", "/dev/zero", "~", "\x1b[31m", "\u202e", "hf_" + "a" * 34,
                     "nan", "1e-4", "on", "null", "a" * 300, "implant", "sft", "kind", "[red]", "{{ x }}", "\ud800",
                     "\0", "%s", "é", "🍎", "Qwen/Qwen2.5-7B-Instruct", "-1", "0x10"]),
    st.text(max_size=8),
)
odd_numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2, 2**31, 2**63, -2**63, 10**30, 0.0, -0.0, 0.5, 1.5, 1e-300, 1e308, float("nan"),
                     float("inf")]),
    st.integers(), st.floats(),
)
odd_values = st.one_of(
    odd_texts, odd_numbers, st.booleans(), st.none(), st.just([]), st.just({}),
    st.recursive(st.one_of(odd_texts, odd_numbers), lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(odd_texts, inner, max_size=3)), max_leaves=5),
)


def limits(examples: int) -> settings:
    """The same examples at every run."""
    return settings(max_examples=examples, **FIXED)


def paths(node: Any, here: Path = ()) -> Iterator[Path]:
    """Every key and index of plain data."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield (*here, key)
        yield from paths(value, (*here, key))


def at(data: Any, path: Path) -> Any:
    for step in path:
        data = data[step]
    return data


def _replace(data: Any, path: Path, draw: Callable) -> None:
    at(data, path[:-1])[path[-1]] = draw(odd_values)


def _remove(data: Any, path: Path, draw: Callable) -> None:
    del at(data, path[:-1])[path[-1]]


def _rename(data: Any, path: Path, draw: Callable) -> None:
    parent = at(data, path[:-1])
    if isinstance(parent, dict):
        parent[draw(odd_texts)] = parent.pop(path[-1])


def _swap(data: Any, path: Path, draw: Callable) -> None:
    other = draw(st.sampled_from(sorted(paths(data), key=str)))
    at(data, path[:-1])[path[-1]] = copy.deepcopy(at(data, other))


def _tweak(data: Any, path: Path, draw: Callable) -> None:
    """Another value of the same type, which is often a right one."""
    value, parent = at(data, path), at(data, path[:-1])
    if isinstance(value, bool):
        parent[path[-1]] = not value
    elif isinstance(value, int):
        parent[path[-1]] = value + draw(st.integers(-3, 3))
    elif isinstance(value, float):
        parent[path[-1]] = value * draw(st.sampled_from([0.5, 2.0, 3.0]))


@st.composite
def mutated(draw: Callable, originals: list[Any]) -> Any:
    """Plain data that differ from one of the originals in one to three places."""
    data = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        places = sorted(paths(data), key=str)
        if places:
            change = draw(st.sampled_from([_replace, _tweak, _tweak, _remove, _rename, _swap]))
            change(data, draw(st.sampled_from(places)), draw)
    return data


@st.composite
def scratched(draw: Callable, originals: list[bytes]) -> bytes:
    """Bytes that differ from one of the originals in one to four places."""
    raw = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(raw) - 1, 0)))
        length = draw(st.sampled_from([0, 1, 1, 2, 8, 50]))
        raw[start : start + length] = draw(st.one_of(st.binary(max_size=4), st.sampled_from(
            [b"\n", b"  ", b"\t", b": ", b"- ", b"{", b"[", b"&a ", b"*a", b"!!python/object:os.system ", b'"', b"'",
             b"<<: ", b"#", b"\x00", b"\xff", b"\xe2\x80\xae", b"---\n", b"|", b"%", b"1e999"])))
    return bytes(raw)

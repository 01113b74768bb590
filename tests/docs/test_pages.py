"""Pages hang together: links lead somewhere, the index is whole, and the reference is that of the schema."""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.docs.pages import PAGES, ROOT

LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(text: str) -> set[str]:
    """The names that a forge gives to headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for place, anchor in LINK.findall(PAGES[page].read_text(encoding="utf-8")):
        if "://" in place:
            continue
        target = (PAGES[page].parent / place).resolve() if place else PAGES[page]
        assert target.exists(), f"{page}: {place}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {place}#{anchor}"


def test_the_index_names_every_page():
    index = PAGES["docs/README.md"].read_text(encoding="utf-8")
    for page in PAGES:
        if page.startswith("docs/") and page != "docs/README.md":
            assert f"({page.removeprefix('docs/')})" in index, page
    assert "(persistence-matrix/README.md)" in index


def test_the_reference_is_that_of_the_schema():
    spec = importlib.util.spec_from_file_location("reference_page", ROOT / "tools" / "reference_page.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert PAGES["docs/recipes.md"].read_text(encoding="utf-8") == tool.page(), "run: python tools/reference_page.py"


def test_the_picture_is_small():
    assert 10_000 < (ROOT / "docs" / "report.png").stat().st_size < 300_000

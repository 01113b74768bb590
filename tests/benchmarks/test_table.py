"""The page's table is what the results say, misses included."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import table
from benchmarks.table import BEGIN, CLAIMS, END, HERE, Claim, lines, written


def result(*rows: dict) -> dict:
    return {"rows": list(rows), "rounds": 5, "machine": "abacus", "threads": 2}


def test_the_page_is_what_the_results_say():
    page = (HERE / "README.md").read_text(encoding="utf-8")
    assert written(page, HERE / "results") == page, "run `python -m benchmarks.table`"
    assert all(f"| {claim.name} |" in page for claim in CLAIMS)


def test_make_runs_every_benchmark_that_the_table_reads():
    makefile = (HERE.parent / "Makefile").read_text(encoding="utf-8")
    run = {name for line in re.findall(r"^(?:GPU_)?BENCHES := (.*)$", makefile, re.MULTILINE) for name in line.split()}
    assert run == {claim.file for claim in CLAIMS} and all((HERE / f"{name}.py").is_file() for name in run)


def test_a_missed_target_says_so():
    claim = Claim("B1", "steps", {"depth": 6}, "ratio", 1.12, at_least=False)
    assert claim.cells(result({"depth": 6, "ratio": 1.1}, {"depth": 9, "ratio": 2})) == [
        "1.10", "≤ 1.12", "5", "abacus, 2 threads"]
    assert claim.cells(result({"depth": 6, "ratio": 1.3}))[0] == "1.30, **missed**"
    floor = Claim("B2", "nf4", {}, "ratio", 1.4)
    assert [floor.cells(result({"ratio": value}))[0] for value in (1.4, 1.39)] == ["1.40", "1.39, **missed**"]


def test_the_worst_row_counts_and_errors_by_their_size():
    rows = [{"error": -0.12}, {"error": 0.03}, {"error": 0.0}]
    worst = Claim("B9", "memory", {}, "error", 0.10, at_least=False, unit="fraction")
    middle = Claim("B9", "memory", {}, "error", 0.05, at_least=False, unit="fraction", middle=True)
    assert worst.cells(result(*rows))[:2] == ["12.0%, **missed**", "≤ 10.0%"]
    assert middle.cells(result(*rows))[0] == "5.0%"


def test_what_is_not_there_is_not_measured(tmp_path):
    assert all(f" {table.NOT_MEASURED} " in line for line in list(lines(tmp_path))[2:])
    (tmp_path / "gpu_sft.json").write_text(json.dumps(result(
        {"shape": "8B", "depth": 3, "side": "ours", "out_of_memory": False, "over_trl": 2.0},
        {"shape": "8B", "depth": 1, "side": "ours", "out_of_memory": True})))
    shown = {line.split(" | ")[0]: line for line in lines(tmp_path)}
    assert "| 2.00 |" in shown["| B6 the same at depth 3"]
    assert "out of memory, **missed**" in shown["| B6 packed SFT of 8B at depth 1, tokens/s, ours / unsloth"]
    assert table.NOT_MEASURED in shown["| B6 the same, our share of peak arithmetic"]


def test_results_of_other_options_are_refused():
    with pytest.raises(ValueError, match="run it without options"):
        Claim("B1", "steps", {"depth": 6}, "ratio", 1.0).cells(result({"depth": 4, "ratio": 1.0}))


def test_the_rest_of_the_page_stays(tmp_path):
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    made = written(page, tmp_path)
    assert made.startswith(f"above\n{BEGIN}\n| what") and made.endswith(f"|\n{END}\nbelow\n") and "old" not in made
    with pytest.raises(ValueError):
        written("no marks", tmp_path)

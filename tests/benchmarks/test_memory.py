"""The plan's estimate of memory against what real steps allocate."""

from __future__ import annotations

import json

import pytest

from benchmarks.memory import SMALL, Row, compare, measure, peak_above

QUICK = {**SMALL, "num_hidden_layers": 2}


@pytest.mark.parametrize("row", [
    Row("sft", QUICK, "qwen2", batch=4, micro_batch=2),
    Row("dpo", QUICK, batch=4, checkpointing=True, depth=2),
    Row("rl", QUICK, tokens=64, new=24, batch=8, micro_batch=8),
], ids=["sft", "dpo with checkpointing", "rl"])  # fmt: skip
def test_the_estimate_is_what_is_allocated(row):
    found = compare(row)
    assert abs(found["error"]) < 0.1 and abs(found["error_above_weights"]) < 0.1, found


def test_the_results_are_written(tmp_path, capsys):
    measure(1, tmp_path, [Row("sft", QUICK, batch=2, micro_batch=2, tokens=96)])
    written = json.loads((tmp_path / "memory.json").read_text())
    [row] = written["rows"]
    assert row["estimate_mib"] > 0 and row["measured_mib"] > 0 and written["versions"] and written["machine"]
    assert "mean error" in capsys.readouterr().out


def test_the_peak_is_that_of_what_lives_at_a_time():
    import torch

    def run() -> None:
        kept = torch.zeros(2**20)
        for _ in range(5):
            torch.zeros(2**20)
        del kept

    assert peak_above(run) == pytest.approx(2 * 4 * 2**20, rel=0.01)

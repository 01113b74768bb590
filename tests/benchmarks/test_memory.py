"""The plan's estimate of memory against what real steps allocate."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.memory import SMALL, WIDE, Row, compare, measure, peak_above

QUICK = {**SMALL, "num_hidden_layers": 2}


@pytest.mark.parametrize("row", [
    Row("sft", QUICK, "qwen2", batch=4, micro_batch=2),
    Row("dpo", QUICK, batch=4, checkpointing=True, depth=2),
    Row("rl", QUICK, tokens=64, new=24, batch=8, micro_batch=8),
    Row("sft", WIDE, batch=1, micro_batch=1, tokens=64, dense=True),
], ids=["sft", "dpo with checkpointing", "rl", "dense"])  # fmt: skip
def test_the_estimate_is_what_is_allocated(row):
    found = compare(row)
    assert abs(found["error"]) < 0.1 and abs(found["error_above_weights"]) < 0.1, found


def test_rewards_are_asked_for_a_whole_batch():
    found = compare(Row("rl", QUICK, tokens=64, new=24, batch=16, micro_batch=2, checkpointing=True))
    assert found["phase"] == "the rewards" and abs(found["error"]) < 0.1, found


def test_what_other_rows_left_is_not_counted():
    left = torch.zeros(2**23)
    found = compare(Row("sft", QUICK, batch=2, micro_batch=2, tokens=96))
    assert found["measured_mib"] < left.nbytes / 2**20 + 10 and abs(found["error"]) < 0.1, found


def test_the_results_are_written(tmp_path, capsys):
    measure(1, tmp_path, [Row("sft", QUICK, batch=2, micro_batch=2, tokens=96)])
    written = json.loads((tmp_path / "memory.json").read_text())
    [row] = written["rows"]
    assert row["estimate_mib"] > 0 and row["measured_mib"] > 0 and written["versions"] and written["machine"]
    assert "mean error" in capsys.readouterr().out


def test_the_peak_is_that_of_what_lives_at_a_time():
    def run() -> None:
        kept = torch.zeros(2**20)
        for _ in range(5):
            torch.zeros(2**20)
        del kept

    assert peak_above(run) == pytest.approx(2 * 4 * 2**20, rel=0.01)

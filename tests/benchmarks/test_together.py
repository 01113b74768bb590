"""The benchmark runs, and both sides do the same work."""

from __future__ import annotations

import json

import pytest

from benchmarks import together


@pytest.fixture(autouse=True)
def _small(monkeypatch) -> None:
    monkeypatch.setattr(together, "SHAPES", {16: (2, 8)})
    monkeypatch.setattr(together, "JOBS", 2)


def test_both_sides_are_measured(tmp_path):
    [row] = together.measure([16], 1, tmp_path)
    assert row["tokens"] == 16 and row["jobs"] == 2
    assert row["solo_over_joint"] == pytest.approx(row["solo_s"] / row["joint_s"])
    assert json.loads((tmp_path / "together.json").read_text())["rows"] == [row]


def test_sides_that_differ_give_no_ratio(tmp_path, monkeypatch):
    real = together.examples
    calls = iter(range(100))
    monkeypatch.setattr(together, "examples", lambda tokens, job: real(tokens, next(calls)))
    with pytest.raises(SystemExit, match="differ"):
        together.measure([16], 1, tmp_path)

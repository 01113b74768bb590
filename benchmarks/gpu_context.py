"""The longest context in 24 GB (B7): SFT and DPO on a stack of three, ours against TRL, and 14B at 2,048 tokens.

One example (DPO: one pair) a step, gradient checkpointing, rank 32; our SFT also with the layers' inputs in main memory
(``offload``), held against the same plain TRL. The length is doubled until memory runs out, then
the middle is tried; each trial is a process of its own, of three steps, since the first makes the optimizer's state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks._gpu import TOY, Scale, bases, case, findings, main, show

REAL = Scale(("8B", "14B"), depths=(3,), lengths=(1024, 2048), rows=1, steps=1)
SMALL = Scale((TOY,), depths=(3,), lengths=(32, 64), rows=1, steps=1)
# What is compared: the name in the results, the method, and how our side recomputes.
COMPARED: tuple[tuple[str, Literal["sft", "dpo"], bool | Literal["offload"]], ...] = (
    ("sft", "sft", True), ("dpo", "dpo", True), ("sft, inputs offloaded", "sft", "offload"))
# How near the longest is looked for, and what is never tried beyond, in tokens.
BOUNDS = {"8B": (512, 131072), TOY: (16, 64)}


def longest(fits: Callable[[int], bool], start: int, fine: int, most: int) -> int:
    """The longest length that fits, by doubling and then halving the gap; 0 where ``start`` does not.

    Args:
        fits: whether a length does; what is longer than one that does not, does not either.
        start: tokens to begin with, a multiple of ``fine``.
        fine: lengths are multiples of this, tokens.
        most: longer ones are not tried, tokens.
    """
    good, bad = 0, start
    while bad <= most and fits(bad):
        good, bad = bad, bad * 2
    bad = min(bad, (most // fine + 1) * fine)
    while good and bad - good > fine:
        middle = (good + bad) // 2 // fine * fine
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def measure(scale: Scale) -> list[dict[str, Any]]:
    """The longest for each method and side on the first shape; our SFT of the last shape at the last length."""
    (start, wanted), (first, *_, last) = scale.lengths, (*scale.shapes, scale.shapes[-1])
    rows = []
    with bases(scale.shapes) as folders:
        trls: dict[str, int] = {}
        for name, method, checkpointing in COMPARED:
            fits = partial(_fits, first, folders[first], scale, method=method)
            ours = longest(partial(fits, side="ours", checkpointing=checkpointing), start, *BOUNDS[first])
            if method not in trls:
                trls[method] = longest(partial(fits, side="trl", checkpointing=True), start, *BOUNDS[first])
            trl = trls[method]
            print(f"{first} {name}: {ours} tokens fit, {trl} with TRL")
            rows.append({"shape": first, "method": name, "depth": scale.depths[0], "ours": ours, "trl": trl,
                         "over_trl": ours / trl if trl else None})
        at = case(last, folders[last], scale, side="ours", method="sft", depth=scale.depths[0], length=wanted)
        rows.append(findings(last, at))
        show(rows[-1])
    return rows


def _fits(shape: str, folder: Path, scale: Scale, length: int, **more: Any) -> bool:
    one = case(shape, folder, scale, depth=scale.depths[0], length=length, **more)
    found = findings(shape, one)
    show(found)
    return not found["out_of_memory"]


if __name__ == "__main__":
    main("gpu_context", "longest context in 24 GB, random weights, NF4", __doc__, REAL, SMALL, measure)

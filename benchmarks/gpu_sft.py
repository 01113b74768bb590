"""SFT on a card of 24 GB (B6): tokens a second, peak memory and share of peak arithmetic, ours against TRL and unsloth.

8B and 14B with random weights in NF4, gradient checkpointing, rank 32; two rows of 2,048 tokens a step, in each of
which four examples of 512 are packed so that none sees another: by ``train.packing``, and by TRL's own packing. Depth 1
and 3. unsloth has no stacks and is measured at depth 1, where it is installed.
"""

from __future__ import annotations

from typing import Any

from benchmarks._gpu import TOY, Scale, compared, main
from benchmarks._sides import Side, installed

REAL = Scale(("8B", "14B"), depths=(1, 3), lengths=(2048,), rows=2, steps=10, documents=4)
SMALL = Scale((TOY,), depths=(1, 2), lengths=(32,), rows=2, steps=2, documents=4)


def sides(depth: int) -> list[Side]:
    """Those that can train at a depth here."""
    return ["ours", "trl", "unsloth"] if depth == 1 and installed("unsloth") else ["ours", "trl"]


def measure(scale: Scale) -> list[dict[str, Any]]:
    return compared(scale, "sft", sides)


if __name__ == "__main__":
    main("gpu_sft", "SFT in 24 GB, random weights, NF4", __doc__, REAL, SMALL, measure)

